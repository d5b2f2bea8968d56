"""Models as most public repositories write them: what the project's own are compared with, in float32 and by autograd."""
