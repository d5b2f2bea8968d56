"""Stage 1: autoencoders with a bottleneck. Tensors in, tensors out; knows no files, clocks or processes."""
