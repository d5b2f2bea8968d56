"""How fast the project is, against what the machine could do and against others: `make bench`. To add one: work.py."""
