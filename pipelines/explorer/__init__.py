"""The explorer: a run in the browser, served to this machine alone."""
