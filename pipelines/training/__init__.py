"""The training loop that both stages share, and what it stands on: order, checkpoints, ranks, logs."""
