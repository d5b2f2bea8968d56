"""Tensors to files that people look at or listen to: PNG, GIF, WAV, plots."""
