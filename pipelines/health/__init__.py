"""What is wrong with a training or a trained run, what it means, and which setting to change: rules and their words."""
