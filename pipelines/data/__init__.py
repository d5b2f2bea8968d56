"""Data sets: one file each, a yaml of the same name in `configs/data`, and the code data set that joins the two stages."""
