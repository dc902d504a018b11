"""What a replica finds first when it imports a script's own mock: leads to Podbay's modules."""

import importlib

from podbay.compat.finder import install

install()
# The name now stands for what the finder serves, and the import system hands that out.
importlib.import_module("dyff")
