"""Finds out whether a killed container ran out of memory, where its engine does not say so.

The kernel's word of that takes another way to the engine than the word of the end. Where it comes
second, Docker writes an event of it and leaves `OOMKilled` false for ever: 3 of 300 containers that
ran out of memory on a busy machine, with 20.10.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from podbay_session_manager.drivers.containers.calls import EngineCalls
from podbay_session_manager.drivers.containers.engine import EngineError

__all__ = ["with_memory_kill"]

_LOG = logging.getLogger(__name__)
_KILLED: Final = 137
# So long after the end the event is waited for. With this none of 250 containers on a busy machine
# was taken for one that somebody killed.
_LATE_SECONDS: Final = 0.5
# The whole look at the node waits for this. An engine that is slower is not lost yet.
_PATIENCE_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 10.0


async def with_memory_kill(calls: EngineCalls, details: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is known of a container, also where the engine found out late.

    Args:
        calls: The engine.
        details: What it tells when the container is inspected.

    Raises:
        DriverUnreachableError: The engine cannot be reached.
    """
    if not _may_have_run_out(details):
        return details
    identity, state = str(details["Id"]), details["State"]
    # In the engine's own time: its clock may differ from that of this machine.
    begun, ended = (_seconds(state[key]) for key in ("StartedAt", "FinishedAt"))
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            ran_out = await calls.stream(
                lambda engine: engine.ran_out_of_memory(identity, begun, ended + _LATE_SECONDS),
                silence=_SILENT_SECONDS,
            )
    except (EngineError, TimeoutError) as error:
        _LOG.info("why %s was killed is not known: %s", identity, error)
        return details
    return {**details, "State": {**state, "OOMKilled": True}} if ran_out else details


def _may_have_run_out(details: Mapping[str, Any]) -> bool:
    """Say whether a container ended as one does that ran out of memory, and nobody says so."""
    state = details["State"]
    limited = bool((details.get("HostConfig") or {}).get("Memory"))
    ended = state.get("Status") in {"exited", "dead"}
    return limited and ended and state.get("ExitCode") == _KILLED and not state.get("OOMKilled")


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
