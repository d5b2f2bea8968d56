"""What the verbs share at the command line: flags, Hydra."""
