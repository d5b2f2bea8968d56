"""Likelihoods, one module each: data units <-> network units, exact probabilities of the 256 levels, or of codes."""
