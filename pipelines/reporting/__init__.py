"""Reports on a run, or on several side by side: one HTML file each, which opens without a network."""
