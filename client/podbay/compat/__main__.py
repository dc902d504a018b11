"""`python -m podbay.compat SCRIPT [ARGS]`."""

from __future__ import annotations

import sys

from podbay.compat import finder
from podbay.compat.script import run_script

USAGE = """\
usage: python -m podbay.compat SCRIPT [ARGS]

Runs a script that imports dyff.client, dyff.schema or dyff.audit.local against Podbay, whether or
not those packages are installed. The script needs no change: its arguments, its exit code and its
tracebacks are those of `python SCRIPT [ARGS]`.

dyff.client.Client() takes its settings from PODBAY_API_ENDPOINT and PODBAY_API_TOKEN, which
`podbay up` prints, or else from DYFF_API_ENDPOINT and DYFF_API_TOKEN. The endpoint is the address
of Podbay's registry, as 127.0.0.1:7101.
"""


def main() -> None:
    """Run the script that the command line names."""
    arguments = sys.argv[1:]
    if not arguments:
        sys.stderr.write(USAGE)
        sys.exit(2)
    if arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return
    if arguments[0].startswith("-"):
        sys.stderr.write(f"{USAGE}\npodbay.compat: there is no option {arguments[0]}\n")
        sys.exit(2)
    finder.install()
    run_script(arguments[0], arguments[1:])


if __name__ == "__main__":
    main()
