"""The training loop that both stages share, and its parts: checkpoints, ranks, logs."""
