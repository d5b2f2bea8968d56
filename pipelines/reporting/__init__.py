"""Pages of HTML that say what became of a run, or of several side by side: one file each, readable without a network."""
