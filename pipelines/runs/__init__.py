"""A run's folder: its configuration, its trained stages, the data it was trained on."""
