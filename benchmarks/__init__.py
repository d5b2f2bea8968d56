"""How fast the project is: against what the machine could do, and against others. `make bench`; see work.py to add one."""
