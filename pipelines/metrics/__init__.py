"""Metrics as pure functions of tensors, one file each: no files, no devices, no models."""
