"""Files and errors: atomic writes, locks, one-line errors, signals, what systems lack."""
