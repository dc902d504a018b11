"""`python -m podbay.cli` is `podbay`."""

from __future__ import annotations

from podbay.cli.root import main

main()
