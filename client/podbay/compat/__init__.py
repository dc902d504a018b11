"""Scripts that were written for the platform, run against Podbay as they stand.

`python -m podbay.compat SCRIPT [ARGS]` runs one.
"""
