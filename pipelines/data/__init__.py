"""Data sets, each one file here and one yaml in `configs/data`; and the code data set that connects the two stages."""
