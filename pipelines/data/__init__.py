"""Data sets, one file and one yaml in `configs/data` each, and the code data set that joins the two stages."""
