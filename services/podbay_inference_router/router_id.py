"""Who a router is, also after a restart: the same to those who give it shares of limits."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["held_router_id"]

_ID_BYTES: Final = 32


@contextlib.contextmanager
def held_router_id(data_dir: Path) -> Iterator[str]:
    """Give the id of the router of a data directory, for as long as it is locked here.

    Where another router uses the directory at this moment, or it cannot be written, the id is a
    new one.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(data_dir / "router-id", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield uuid.uuid4().hex
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            known = os.read(file, _ID_BYTES)
            if len(known) != _ID_BYTES or not known.isalnum():
                known = uuid.uuid4().hex.encode()
                os.ftruncate(file, 0)
                os.pwrite(file, known, 0)
        except OSError:
            known = uuid.uuid4().hex.encode()
        yield known.decode()
    finally:
        os.close(file)
