"""Podbay beside its peers, in one run. `make bench` runs all and writes docs/performance.md."""
