"""What evaluate.py measures: figures shared by all kinds of data, figures of each kind, classifiers, the table."""
