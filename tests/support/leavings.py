"""What sessions leave when all of them have ended: rows, usage, files. One look for all tests."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from podbay import Client

__all__ = ["left_at_end", "left_files", "left_rows", "left_usage"]

Stored = Callable[[str], list[tuple[Any, ...]]]
"""Asks the session manager's database."""

# What may stay of the services, below the data folder. The logs of replicas stay for a week.
_SERVICES = frozenset({"registry.json", "session-manager.json", "inference-router.json"})
_ROUTER = frozenset({"leases", "router-id", "serving", "workers"})
_LOGS = frozenset(name.replace(".json", f".log{end}") for name in _SERVICES for end in ("", ".1"))
_HALF_WRITTEN = (".new", ".tmp", ".part")


def left_rows(stored: Stored) -> list[str]:
    """Return what the session manager's database says of what is no more, in words.

    Args:
        stored: Asks it, in SQL that SQLite and PostgreSQL have.
    """
    found = [
        f"session {id_} is {state}"
        for id_, state in stored("SELECT id, state FROM sessions WHERE state <> 'ENDED'")
    ]
    for id_, text in stored("SELECT id, record FROM replicas"):
        record = json.loads(text)
        if record["phase"] not in {"STOPPED", "FAILED"}:
            found.append(f"replica {id_} is {record['phase']}")
        elif not record.get("removed"):
            found.append(f"replica {id_} is not known to be gone from its node")
    orphans = {
        "replica without a session":
            "SELECT id FROM replicas WHERE session_id NOT IN (SELECT id FROM sessions)",
        "GPU lease": "SELECT node, gpu, replica_id FROM gpu_leases",
        "session that nobody sees":
            "SELECT id FROM sessions WHERE id NOT IN (SELECT id FROM resources)",
        "label of nothing": "SELECT id, key FROM resource_labels "
            "WHERE id NOT IN (SELECT id FROM resources)",
        "request for nothing": "SELECT request_id FROM resource_request_ids "
            "WHERE resource_id NOT IN (SELECT id FROM resources)",
        "change that was to be forgotten, or is yet to come": "SELECT l.revision FROM "
            "resource_changes l, resource_counter c "
            "WHERE l.revision <= c.compacted OR l.revision > c.revision",
    }  # fmt: skip
    found += [f"{what}: {row}" for what, query in orphans.items() for row in stored(query)]
    ((kept, whole),) = stored(
        "SELECT (SELECT count(*) FROM resource_changes), "
        "(SELECT revision - compacted FROM resource_counter)"
    )
    if kept != whole:
        found.append(f"{kept} changes are kept of {whole}")
    return found


def left_usage(client: Client, account: str) -> list[str]:
    """Return what an account is still said to have, in words."""
    usage = client.accounts.usage(account)
    numbers = {
        "sessions": usage.sessions,
        "replicas": usage.replicas,
        "GPUs": sum(usage.gpus.values()),
        "requests in flight": usage.requests_in_flight,
        "sessions that wait": usage.waiting_sessions,
    }
    return [f"the account has {number} {what}" for what, number in numbers.items() if number]


def left_files(data_dir: Path) -> list[str]:
    """Return the files below a platform's data folder that nothing needs while no replica runs."""
    allowed = {"run": _SERVICES, "router": _ROUTER, "logs": _LOGS}
    found = [
        str(path.relative_to(data_dir))
        for folder, names in allowed.items()
        for path in (data_dir / folder).glob("*")
        if path.name not in names
    ]
    # Of containers they are by node; how far the log was taken is beside it.
    places = ("replicas/*", "replicas-inprocess/*", "replicas-attached/*", "replicas-docker/*/*")
    for place in places:
        found += [
            str(path.relative_to(data_dir))
            for path in data_dir.glob(f"session-manager/{place}/*")
            if path.name not in {"log", "taken.json"}
        ]
    lives = list(data_dir.glob("session-manager/leaders/*.life"))
    if len(lives) > 1:
        found.append(f"{len(lives)} marks of session managers' lives")
    for path in data_dir.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or path.name.endswith(_HALF_WRITTEN):
            found.append(str(path.relative_to(data_dir)))
    return sorted(set(found))


def left_at_end(stored: Stored, data_dir: Path) -> list[str]:
    """Return what is left when also the services have ended, in words: they were asked to."""
    found = left_rows(stored)
    for holder, address in stored("SELECT holder, address FROM leadership"):
        if holder or address:
            found.append(f"the lease of the one that leads is still {holder}'s, at {address}")
    routers = stored("SELECT id FROM routers")
    if len(routers) > 1:
        found.append(f"one router is known as {len(routers)}")
    found += [str(path) for path in data_dir.glob("session-manager/leaders/*.life")]
    if (data_dir / "up.json").exists():
        found.append("up.json")
    return found
