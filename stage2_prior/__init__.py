"""Stage 2: autoregressive priors over discrete codes, and sampling from them. Tensors in, tensors out."""
