"""The sections of a run's report, a file each: run_page.py says what such a file defines."""
