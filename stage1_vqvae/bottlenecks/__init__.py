"""What stands between encoder and decoder: one file a kind, all with the interface of base.py."""
