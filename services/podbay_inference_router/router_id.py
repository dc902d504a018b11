"""Who a router is, also after a restart: the same to those who give it shares of limits."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["RouterHome", "held_home"]

_ID_BYTES: Final = 32


@dataclass(frozen=True)
class RouterHome:
    """Where a router is at home.

    Attributes:
        router_id: Who it is.
        folder: Its data directory; None where another router uses that, or it cannot be written.
    """

    router_id: str
    folder: Path | None


@contextlib.contextmanager
def held_home(data_dir: Path) -> Iterator[RouterHome]:
    """Give the router of a data directory, for as long as it is locked here.

    Where another router uses the directory at this moment, or it cannot be written, the id is a
    new one.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(data_dir / "router-id", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield RouterHome(uuid.uuid4().hex, None)
        return
    try:
        folder: Path | None = data_dir
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            known = os.read(file, _ID_BYTES)
            if len(known) != _ID_BYTES or not known.isalnum():
                known = uuid.uuid4().hex.encode()
                os.ftruncate(file, 0)
                os.pwrite(file, known, 0)
        except OSError:
            known, folder = uuid.uuid4().hex.encode(), None
        yield RouterHome(known.decode(), folder)
    finally:
        os.close(file)
