"""A script that uses a local platform until it is told to end, or killed."""

from __future__ import annotations

import sys

from podbay.local import LocalPlatform

if __name__ == "__main__":
    platform = LocalPlatform(sys.argv[1])
    print(platform.endpoint, flush=True)
    sys.stdin.readline()
    # Not closed: the end of the program does it.
