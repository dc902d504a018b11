"""Podbay beside other model servers, in one run. `make bench-peers` writes the page.

The modules `serve_*` and `load_*` run in the environments of the peers, which have no Podbay.
"""
