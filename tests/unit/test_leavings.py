"""What sessions leave is seen: a look that finds nothing would always be content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from podbay_session_manager.tables import METADATA
from tests.support.leavings import left_at_end, left_files, left_rows

DONE = json.dumps({"phase": "STOPPED", "removed": True})


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    METADATA.create_all(engine)
    with engine.connect() as made:
        made.exec_driver_sql("INSERT INTO resource_counter VALUES (1, 3, 1)")
        for revision in (2, 3):
            made.exec_driver_sql(
                "INSERT INTO resource_changes VALUES (?, 'k', 's', 1, 't', '{}', NULL)", (revision,)
            )
        made.exec_driver_sql("INSERT INTO sessions VALUES ('s', 'ENDED', 1.0, '{}')")
        made.exec_driver_sql(
            "INSERT INTO resources (kind, id, account, status, creation_time, revision, document)"
            " VALUES ('k', 's', 'a', 'Terminated', 't', 3, '{}')"
        )
        made.exec_driver_sql("INSERT INTO replicas VALUES ('r', 's', ?)", (DONE,))
        made.exec_driver_sql("INSERT INTO leadership VALUES (1, 4, '', '', 9, 5.0)")
        made.exec_driver_sql("INSERT INTO routers VALUES ('one')")
        yield made
    engine.dispose()


def asked(connection: sa.Connection) -> Callable[[str], list[tuple[Any, ...]]]:
    return lambda query: [tuple(row) for row in connection.exec_driver_sql(query)]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE sessions SET state = 'ENDING'", "session s is ENDING"),
        ('UPDATE replicas SET record = \'{"phase": "READY"}\'', "replica r is READY"),
        ('UPDATE replicas SET record = \'{"phase": "FAILED"}\'', "r is not known to be gone"),
        ("UPDATE replicas SET session_id = 'other'", "replica without a session: ('r',)"),
        ("INSERT INTO gpu_leases VALUES ('n', 'g', 'r')", "GPU lease: ('n', 'g', 'r')"),
        ("UPDATE resources SET id = 'other'", "session that nobody sees: ('s',)"),
        ("INSERT INTO resource_labels VALUES ('k', 'no', 'a', 'b')", "label of nothing"),
        (
            "INSERT INTO resource_request_ids VALUES ('k', 'a', 'q', 'd', 'no', 't')",
            "request for nothing: ('q',)",
        ),
        ("UPDATE resource_counter SET compacted = 2", "was to be forgotten, or is yet to come"),
        ("DELETE FROM resource_changes WHERE revision = 3", "1 changes are kept of 2"),
    ],
)
def test_each_row_is_named(connection: sa.Connection, change: str, found: str) -> None:
    assert left_rows(asked(connection)) == []
    connection.exec_driver_sql(change)
    assert any(found in text for text in left_rows(asked(connection)))


def test_files_and_what_outlives_the_services_are_named(
    connection: sa.Connection, tmp_path: Path
) -> None:
    fine = ("run/registry.json", "router/leases", "logs/registry.log.1")
    log = "session-manager/replicas/r/log/0"
    bad = (
        "run/other.json",
        "router/mark.new",
        "session-manager/replicas/r/pid",
        "logs/unknown",
    )
    for name in (*fine, log):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert left_files(tmp_path) == []
    assert left_at_end(asked(connection), tmp_path) == []
    for name in bad:
        (tmp_path / name).touch()
    assert left_files(tmp_path) == sorted(bad)
    (tmp_path / "session-manager/leaders").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"session-manager/leaders/{name}.life").touch()
    assert "2 marks of session managers' lives" in left_files(tmp_path)
    (tmp_path / "up.json").touch()
    connection.exec_driver_sql("UPDATE leadership SET holder = 'me', address = 'h:1'")
    connection.exec_driver_sql("INSERT INTO routers VALUES ('two')")
    found = left_at_end(asked(connection), tmp_path)
    assert "the lease of the one that leads is still me's, at h:1" in found
    assert "one router is known as 2" in found
    assert "up.json" in found
    assert sum(name.endswith(".life") for name in found) == 2
