"""Models as most public repositories write them, to compare the project's own with: float32, plain autograd."""
