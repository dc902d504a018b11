"""Say clearly when the Python that make found is too old for Podbay."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "Podbay needs Python 3.11 or newer, and {} is {}.{}.\n"
        "Name another one: make PYTHON=python3.12 demo".format(
            sys.executable, *sys.version_info[:2]
        )
    )
