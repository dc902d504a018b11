"""From what an engine tells of a container to what is told of a replica. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from podbay_session_manager.declared_nodes import DeclaredNode
from podbay_session_manager.drivers.containers.failures import end_reason
from podbay_session_manager.drivers.containers.labels import REPLICA, SESSION
from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.records import PORT_VARIABLE

__all__ = ["is_running", "observed"]

_RUNNING = frozenset({"running", "paused", "restarting"})


def is_running(details: Mapping[str, Any]) -> bool:
    """Return whether a container may have a process; false once it has verifiably ended."""
    return details["State"]["Status"] in _RUNNING


def observed(details: Mapping[str, Any], node: DeclaredNode) -> ObservedReplica:
    """Return a replica as its container shows it.

    Args:
        details: What the engine tells when the container is inspected.
        node: Its node.
    """
    labels = details["Config"]["Labels"]
    state = details["State"]
    variables = dict(line.partition("=")[::2] for line in details["Config"].get("Env") or ())
    inner = int(variables.get(PORT_VARIABLE) or 0)
    host, port = _address(details, node, inner)
    if is_running(details):
        return ObservedReplica(
            replica_id=labels[REPLICA],
            session_id=labels.get(SESSION, ""),
            running=True,
            host=host,
            port=port,
            pid=int(state.get("Pid") or 0) or None,
            node=node.name,
        )
    mock = "podbay_kit.replica_server" in (details["Config"].get("Entrypoint") or ())
    reason, message = end_reason(details, mock=mock)
    return ObservedReplica(
        replica_id=labels[REPLICA],
        session_id=labels.get(SESSION, ""),
        running=False,
        exit_code=None if state["Status"] == "created" else int(state.get("ExitCode") or 0),
        host=host,
        port=port,
        node=node.name,
        reason=reason,
        message=message,
    )


def _address(details: Mapping[str, Any], node: DeclaredNode, inner: int) -> tuple[str, int]:
    """Return where a replica is reached; an empty host and 0 where that is not known."""
    settings = details.get("NetworkSettings") or {}
    if not node.address:
        # It is in one network only, that of its session.
        for network in (settings.get("Networks") or {}).values():
            if network.get("IPAddress"):
                return network["IPAddress"], inner
        return "", 0
    for bound in (settings.get("Ports") or {}).get(f"{inner}/tcp") or ():
        return node.address, int(bound["HostPort"])
    return "", 0
