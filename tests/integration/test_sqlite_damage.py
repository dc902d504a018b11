"""SQLite files that are damaged, of somebody else, or without room: found, told, left alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError
from podbay_kit.storage import Database, DatabaseUnusableError, migrate, sqlite_url

PACKAGE = "podbay_registry"
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with some rows, closed."""
    path = tmp_path / "data" / "registry.sqlite3"
    url = sqlite_url(path)
    migrate(url, PACKAGE)
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO accounts VALUES (?, '2030')", [(f"a{n:050}",) for n in range(2000)]
        )
    connection.close()
    return path


def unclean(path: Path) -> None:
    """Leave the database as a process that was killed does: with a log beside it."""
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "c.execute('PRAGMA wal_autocheckpoint=0');"
        "c.execute(\"INSERT INTO accounts VALUES ('last', '2030')\"); c.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.with_name(f"{path.name}-wal").stat().st_size > 32


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database at all" * 1000)


def header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"SQLite format 4\0")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def only_a_header(path: Path) -> None:
    os.truncate(path, 50)


def page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 8192)


def emptied(path: Path) -> None:
    unclean(path)
    os.truncate(path, 0)


def log_of_another(path: Path) -> None:
    """The log beside it belongs to another database, as after a careless copy."""
    unclean(path)
    other = path.parent.parent / "other.sqlite3"
    with sqlite3.connect(other) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE other (n)")
        connection.executemany("INSERT INTO other VALUES (?)", [(n,) for n in range(50_000)])
    connection.close()
    shutil.copy(other, path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [garbage, header, truncated, only_a_header, page, emptied, log_of_another, folder],
    ids=lambda damage: damage.__name__,
)
def test_damage_is_found_told_and_left_alone(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    before = snapshot(path)
    with pytest.raises(DatabaseUnusableError) as caught:
        migrate(sqlite_url(path), PACKAGE)
    told = str(caught.value)
    assert str(path) in told
    assert "Nothing was changed" in told
    assert "restore a backup" in told or "another schema" in told
    assert snapshot(path) == before


def snapshot(path: Path) -> dict[str, bytes]:
    # What SQLite shares between processes (-shm) holds no data, and neither does an empty log.
    return {
        each.name: each.read_bytes()
        for each in path.parent.iterdir()
        if each.is_file() and not each.name.endswith("-shm") and each.stat().st_size
    }


def test_what_a_killed_process_left_is_no_damage(path: Path) -> None:
    unclean(path)
    migrate(sqlite_url(path), PACKAGE)
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT count(*) FROM accounts WHERE id = 'last'").fetchone()
    connection.close()
    assert found == (1,)


_MIGRATE = """
import os, sys
from podbay_kit.storage import migrate, DatabaseUnusableError
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    migrate("sqlite:///" + sys.argv[1], "podbay_registry")
except DatabaseUnusableError as error:
    print(error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can look into, as those of pytest are not."""
    made = Path(tempfile.mkdtemp(prefix="podbay-open-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="root can do without any permission, others cannot")
@pytest.mark.parametrize("kind", ["owner", "read-only", "folder"])
def test_a_file_of_somebody_else_is_told(path: Path, kind: str, open_folder: Path) -> None:
    shared = open_folder / "data"
    shutil.copytree(path.parent, shared)
    shared.chmod(0o755)
    path = shared / path.name
    if kind == "owner":
        path.chmod(0o600)
    else:
        os.chown(path, NOBODY, NOBODY)
        os.chown(shared, NOBODY, NOBODY)
        path.chmod(0o400 if kind == "read-only" else 0o600)
        shared.chmod(0o500 if kind == "folder" else 0o700)
    before = snapshot(path)
    done = subprocess.run(
        [sys.executable, "-c", _MIGRATE, str(path), str(NOBODY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert str(path) in done.stdout
    assert "Nothing was changed" in done.stdout
    assert "ermission" in done.stdout or f"runs as {NOBODY}" in done.stdout
    assert snapshot(path) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with very little room."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(mount)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        if os.environ.get("PODBAY_TEST_REQUIRE_ALL") == "1":
            pytest.fail(f"no file system can be mounted here: {done.stderr}")
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


async def test_a_full_disk_is_told_harms_nothing_and_ends_without_a_restart(
    small_disk: Path,
) -> None:
    path = small_disk / "data" / "registry.sqlite3"
    url = sqlite_url(path)
    migrate(url, PACKAGE)
    database = Database(url)
    answered = 0

    def add(connection: sa.Connection) -> None:
        query = sa.text("INSERT INTO accounts VALUES (:id, '2030')")
        connection.execute(query, {"id": f"a{answered:06}"})
        connection.execute(
            sa.text("INSERT INTO resource_changes VALUES (:n, 'k', 'i', 1, 't', :document, NULL)"),
            {"n": answered, "document": "x" * 3000},
        )

    async def count() -> int:
        query = sa.text("SELECT count(*) FROM accounts")
        return int(await database.read(lambda c: c.execute(query).scalar_one()))

    try:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(1 << 20))

        async def fill() -> None:
            nonlocal answered
            while answered < 10_000:
                await database.write(add)
                answered += 1

        with pytest.raises(ServiceError) as caught:
            await fill()
        assert caught.value.reason == errors_pb2.ERROR_REASON_STORE_UNAVAILABLE
        assert "make room" in caught.value.message
        assert caught.value.retry_after is not None
        assert answered > 0
        # Reading goes on, and writing is refused again and again.
        assert await count() == answered
        for refused in await asyncio.gather(
            *(database.write(add) for _ in range(5)), return_exceptions=True
        ):
            assert isinstance(refused, ServiceError)
        ballast.unlink()
        for _ in range(10):
            await database.write(add)
            answered += 1
        assert await count() == answered
        check = sa.text("PRAGMA integrity_check")
        assert await database.read(lambda c: c.execute(check).scalar_one()) == "ok"
    finally:
        await database.close()
    migrate(url, PACKAGE)


def test_a_start_without_room_is_told(small_disk: Path) -> None:
    url = sqlite_url(small_disk / "data" / "registry.sqlite3")
    (small_disk / "ballast").write_bytes(bytes((2 << 20) - 5 * 4096))
    with pytest.raises(DatabaseUnusableError, match="Make room"):
        migrate(url, PACKAGE)
    (small_disk / "ballast").unlink()
    migrate(url, PACKAGE)
