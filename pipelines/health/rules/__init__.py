"""The rules, one a file: see pipelines/health/diagnosis.py."""
