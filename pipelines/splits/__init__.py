"""Batches, splits and data sets in the abstract; order, counters and noise: every random number comes from here."""
