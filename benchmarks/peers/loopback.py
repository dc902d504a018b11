"""A network namespace with nothing but loopback in it.

Ray's processes listen on all addresses, whatever address they are told. In a namespace of their
own nobody else reaches them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys

__all__ = ["enter"]

_INSIDE = "PODBAY_BENCH_LOOPBACK"
_UNSHARE = ["unshare", "--net", "--map-root-user"]
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def enter(module: str, arguments: list[str]) -> bool:
    """Start this program again in a namespace of its own; returns there, with loopback up.

    Args:
        module: The module to run again.
        arguments: Its arguments.

    Returns:
        Whether this is such a namespace; False where the system allows none.
    """
    if os.environ.get(_INSIDE) == "1":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        return True
    if (
        shutil.which("unshare") is None
        or subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode
    ):
        return False
    os.environ[_INSIDE] = "1"
    sys.stdout.flush()
    return os.execvp("unshare", [*_UNSHARE, sys.executable, "-m", module, *arguments])
