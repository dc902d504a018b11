"""Records as JSON text, for the store. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from podbay_session_manager.machine import ReplicaPhase, SessionState
from podbay_session_manager.records import (
    DataMount,
    Needs,
    Reason,
    ReplicaRecord,
    ScratchMount,
    ServiceSpec,
    Serving,
    SessionRecord,
)

__all__ = ["read_replica", "read_session", "write_record"]


def write_record(record: SessionRecord | ReplicaRecord) -> str:
    """Return a record as text that `read_session` or `read_replica` reads back without loss."""
    return json.dumps(asdict(record), separators=(",", ":"))


def read_session(text: str) -> SessionRecord:
    """Read a session."""
    data: dict[str, Any] = json.loads(text)
    service: dict[str, Any] = data.pop("service")
    serving: dict[str, Any] = data.pop("serving")
    needs: dict[str, Any] = data.pop("needs", {})
    return SessionRecord(
        **{
            **data,
            "state": SessionState(data["state"]),
            "ended_reason": Reason(data["ended_reason"]),
        },
        service=_read_service(service),
        serving=Serving(**serving),
        needs=Needs(**{**needs, "hardware_types": tuple(needs.get("hardware_types", ()))}),
    )


def _read_service(data: dict[str, Any]) -> ServiceSpec:
    # Members that an earlier release did not write have their defaults.
    return ServiceSpec(
        **{
            **data,
            "command": tuple(data["command"]),
            "args": tuple(data["args"]),
            "env": tuple((name, value) for name, value in data["env"]),
            "mounts": tuple(
                ScratchMount(**mount) if "capacity_bytes" in mount else DataMount(**mount)
                for mount in data.get("mounts", ())
            ),
        }
    )


def read_replica(text: str) -> ReplicaRecord:
    """Read a replica."""
    data: dict[str, Any] = json.loads(text)
    data["phase"] = ReplicaPhase(data["phase"])
    data["reason"] = Reason(data["reason"])
    data["log_tail"] = tuple(data["log_tail"])
    data["gpus"] = tuple(data.get("gpus", ()))
    return ReplicaRecord(**data)
