"""Interfaces of batches, splits and data sets; order, counters and noise: the source of all random numbers."""
