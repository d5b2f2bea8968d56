"""One file per work; each defines one subclass of `Work` and is found by looking into this folder."""
