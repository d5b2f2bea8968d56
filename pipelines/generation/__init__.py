"""New data from trained stages: sampling, decoding, continuation of clips, conversion of recordings."""
