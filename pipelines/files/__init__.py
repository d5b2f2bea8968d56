"""Files and errors: atomic writes, one-line errors."""
