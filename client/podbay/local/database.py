"""Which database a `podbay up` keeps its data in: files in its folder, or a PostgreSQL."""

from __future__ import annotations

from podbay.local.faults import LocalError
from podbay.local.state import DataDir, write_private

__all__ = ["use_database"]

_FILES = ("registry/registry.sqlite3", "session-manager/session-manager.sqlite3")


def use_database(data: DataDir, url: str) -> None:
    """Have the services of a data folder keep their data in a PostgreSQL from now on.

    The URL is remembered in a file that only its owner can read.

    Args:
        data: The data folder.
        url: The URL, which may hold a password.

    Raises:
        LocalError: The folder keeps its data elsewhere already.
    """
    data.prepare()
    remembered = _remembered(data)
    if remembered == url:
        return
    used = [name for name in _FILES if (data.path / name).exists()]
    if remembered is None and used:
        raise LocalError(
            "DATABASE_DIFFERS",
            f"the data folder {data.path} keeps its data in {used[0]}",
            way_out="save it with `podbay backup`, and `podbay restore --database` it into "
            "another data folder; or name an empty one with --data-dir",
        )
    write_private(data.database_file, f"{url}\n")


def _remembered(data: DataDir) -> str | None:
    try:
        return data.database_file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
