"""Bottlenecks between encoder and decoder: one file each, all with the interface of base.py."""
