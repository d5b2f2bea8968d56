"""Several processes of one command."""
