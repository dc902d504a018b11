"""What is told to people about replicas: what happened, the evidence, the way out. Pure."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

from podbay_session_manager.drivers.contract import StartProgress
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.plan_input import FailingReplica
from podbay_session_manager.records import Reason, ReplicaRecord, SessionRecord

__all__ = [
    "bounded_tail",
    "crash_loop_message",
    "evidence_of",
    "exit_reason",
    "explanation",
    "failure_message",
    "gpu_failed_message",
    "gpus_lost_message",
    "model_failed_message",
    "never_ready_message",
    "node_lost_message",
    "probe_failed_message",
    "progress_text",
    "whole_message",
]

_SIGNAL_BASE = 128
_TAIL_BYTES = 1536
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
# What the service cannot help: the reason's own message says what to do about it.
_NOT_THE_SERVICE = frozenset(
    {Reason.DISK_FULL, Reason.GPU_UNAVAILABLE, Reason.REGISTRY_UNREACHABLE}
)


def exit_reason(exit_code: int | None) -> tuple[Reason, str]:
    """Return why a replica ended by itself, and the sentence that says so.

    Args:
        exit_code: Its exit code, above 128 for a signal; None where it is not known.
    """
    if exit_code is None:
        return (
            Reason.REPLICA_LOST,
            (
                "The replica is gone, and nothing is left that tells why. Its process may have "
                "been killed together with what watched it, or the machine was restarted."
            ),
        )
    if exit_code > _SIGNAL_BASE:
        number = exit_code - _SIGNAL_BASE
        try:
            name = signal.Signals(number).name
        except ValueError:
            return Reason.REPLICA_EXITED, f"The replica's process ended with exit code {exit_code}."
        hint = (
            " If nobody did this on purpose, the machine may have run out of memory."
            if number == signal.SIGKILL
            else ""
        )
        return (
            Reason.REPLICA_KILLED,
            f"The replica's process was killed by signal {number} ({name}).{hint}",
        )
    if exit_code == 0:
        return (
            Reason.REPLICA_EXITED,
            (
                "The replica's process ended by itself (exit code 0). A replica must serve HTTP on "
                "the port in PORT until it is told to stop; run the server in the foreground."
            ),
        )
    return (
        Reason.REPLICA_EXITED,
        (
            f"The replica's process ended with exit code {exit_code}. The last lines of its log "
            "tell more; the whole log: podbay logs SESSION."
        ),
    )


def node_lost_message(node: str, why: str, grace: float) -> str:
    """Say that a replica was given up because its node is out of reach."""
    return (
        f"Its node {node} could not be reached for {grace:g} s ({why}), so that another replica "
        "takes its place elsewhere. What it held there is not given out again before the node "
        "tells that it is gone."
    )


def gpu_failed_message(node: str, gpu: str, why: str) -> str:
    """Say that a replica must leave a GPU."""
    return (
        f"GPU {gpu} of node {node} was set aside: {why}. The replica is stopped, and another one "
        "takes its place with other GPUs."
    )


def gpus_lost_message(replica: ReplicaRecord, why: str) -> str:
    """Say that the GPUs of a replica have vanished in it."""
    gpus = f"GPU {replica.gpus[0]}" if len(replica.gpus) == 1 else f"GPUs {', '.join(replica.gpus)}"
    return (
        f"The replica does not see its {gpus} of node {replica.node} any more: {why}. That happens "
        "where the engine or its daemon was reloaded. It is stopped, and another one takes its "
        "place."
    )


def model_failed_message(why: str, model: str) -> str:
    """Say that a session failed because the files of a model will never be there."""
    return (
        f"The session waited {why.rstrip()} The whole log: podbay model logs {model}. Register a "
        "model whose source is mended, and a service and a session with it."
    )


def crash_loop_message(last: ReplicaRecord, failures: int, pause: float) -> str:
    """Say that a replica fails again and again.

    Args:
        last: The one that failed last.
        failures: How many failed in a row.
        pause: Seconds until the next one is started.
    """
    code = "" if last.exit_code is None else f" Its last exit code: {last.exit_code}"
    memory = " (out of memory)" if last.reason is Reason.OUT_OF_MEMORY else ""
    end = f"{code}{memory}." if code else ""
    return (
        f"It has failed {failures} times in a row and is in a crash loop; it is tried again "
        f"{pause:g} s after the last failure.{end}"
    )


def never_ready_message(replica: ReplicaRecord, seconds: float, path: str, seen: str) -> str:
    """Say that a replica did not become ready in its time.

    Args:
        replica: The replica.
        seconds: How long it had.
        path: Its readiness path.
        seen: What the last probe met; empty where none came back.
    """
    last = f" The last probe met: {seen}." if seen else ""
    # A process of this machine is asked on loopback; a container's loopback is its own.
    contained = replica.driver.partition("/")[0] == "docker"
    listen = "0.0.0.0 (not only on 127.0.0.1)" if contained else "127.0.0.1"
    return (
        f"The replica ran and was not ready within {seconds:g} s: GET "
        f"http://{replica.address}{path} never answered 2xx.{last} Check that the service listens "
        f"on {listen} at the port in PORT, that its readiness path is the one it serves "
        "(readiness_path), and that it has time enough (start_timeout)."
    )


def probe_failed_message(path: str, seen: str, *, final: bool = False) -> str:
    """Say that a replica that was ready does not answer now."""
    last = f" The last probe met: {seen}." if seen else ""
    out = (
        " It is stopped and replaced."
        if final
        else " It takes no calls until it answers again, and is replaced if that takes too long."
    )
    return f"The replica stopped answering GET {path}.{last}{out}"


def progress_text(progress: StartProgress | None) -> str:
    """Say how far a start has come, as "pulling the image x: 12 of 60 MiB (20 %)"."""
    if progress is None:
        return ""
    if not progress.total_bytes:
        return progress.doing
    done = min(progress.done_bytes, progress.total_bytes)
    percent = 100 * done // progress.total_bytes
    unit, name = next(
        ((size, name) for size, name in _UNITS if progress.total_bytes >= size), (1, "bytes")
    )
    digits = 0 if unit == 1 else 1
    return (
        f"{progress.doing}: {done / unit:.{digits}f} of {progress.total_bytes / unit:.{digits}f} "
        f"{name} ({percent} %)"
    )


def failing_message(failing: FailingReplica) -> str:
    """Say why a replica is replaced that answers its probe."""
    seconds = failing.told - failing.since
    return (
        f"{failing.message} It has been so for {seconds:.0f} s while other replicas of the session "
        "are healthy, so it is stopped and replaced."
    )


def failure_message(session: SessionRecord, replica: ReplicaRecord) -> str:
    """Say why a session failed for good."""
    if replica.reason is Reason.MOCK_PROCESS_ENDED:
        return f"The session has lost its mock. {replica.message}"
    # One of several machines, which may be to blame, must be known by its name.
    on = f" on node {replica.node}" if replica.driver.partition("/")[0] == "docker" else ""
    if replica.attempt > 1:
        start = (
            f"No replica of the session ever became ready, after {replica.attempt} attempts. "
            f"The last one{on}: "
        )
    else:
        start = f"The session's replica{on} never became ready. "
    then = (
        "Then create a new session."
        if replica.reason in _NOT_THE_SERVICE
        else f"Mend the service {session.service.name!r}, and create a new session."
    )
    return f"{start}{replica.message} {then}"


def whole_message(session: SessionRecord) -> str | None:
    """Return the message of a session's status, with what its replica wrote last.

    For where the message stands alone; errors carry the log beside it.
    """
    log = session.evidence.get("log")
    if not session.status_message or not log:
        return session.status_message
    return f"{session.status_message}\nIt wrote last:\n{log}"


def evidence_of(replica: ReplicaRecord) -> dict[str, str]:
    """Return the evidence of a failure in parts, at most 2 KiB."""
    evidence = {"replica": replica.id}
    if replica.reason is not Reason.NONE:
        evidence["reason"] = replica.reason.value
    if replica.exit_code is not None:
        evidence["exitCode"] = str(replica.exit_code)
    if replica.reason is Reason.OUT_OF_MEMORY:
        evidence["outOfMemory"] = "true"
    evidence["failures"] = str(replica.failures + 1)
    if replica.log_tail:
        evidence["log"] = "\n".join(bounded_tail(replica.log_tail))
    return evidence


def bounded_tail(lines: Sequence[str], limit: int = _TAIL_BYTES) -> tuple[str, ...]:
    """Return the last lines that fit into `limit` bytes of UTF-8; an overlong line is cut."""
    kept: list[str] = []
    left = limit
    for line in reversed(lines):
        size = len(line.encode()) + 1
        if size > left:
            if not kept:
                kept.append("…" + line.encode()[-(left - 4) :].decode(errors="ignore"))
            break
        kept.append(line)
        left -= size
    return tuple(reversed(kept))


def explanation(
    session: SessionRecord,
    replicas: Sequence[ReplicaRecord],
    doing: Callable[[ReplicaRecord], str] = lambda _: "",
) -> str:
    """Say what a session waits for or fails by; empty where all is well.

    Args:
        session: The session.
        replicas: Its replicas; those that live, and ended ones.
        doing: How far the start of a replica is; "" where that is not known.
    """
    if session.ended_reason is not Reason.NONE:
        return session.status_message or ""
    if session.status_reason == Reason.QUOTA_LIMIT.camel:
        # All its replicas wait for the same.
        return session.status_message or ""
    live: dict[int, ReplicaRecord] = {}
    for replica in replicas:
        # While one moves to another node there are two at its index; the one that serves counts.
        known = live.get(replica.index)
        if not replica.phase.ended and (known is None or not known.phase.serves):
            live[replica.index] = replica
    ready = sum(1 for r in live.values() if r.phase is ReplicaPhase.READY)
    if ready >= session.desired:
        return ""
    lines = [
        _line(live.get(index), _last_failure(replicas, index), session, index, doing)
        for index in range(session.desired)
    ]
    return "\n".join([f"{ready} of {session.desired} replicas are ready.", *filter(None, lines)])


def _last_failure(replicas: Sequence[ReplicaRecord], index: int) -> ReplicaRecord | None:
    failed = [r for r in replicas if r.index == index and r.phase is ReplicaPhase.FAILED]
    return max(failed, key=lambda r: r.attempt, default=None)


def _line(
    live: ReplicaRecord | None,
    failed: ReplicaRecord | None,
    session: SessionRecord,
    index: int,
    doing: Callable[[ReplicaRecord], str],
) -> str:
    if live is not None and live.phase is ReplicaPhase.READY:
        return ""
    name = f"Replica {index}"
    before = f" Before that: {failed.message}" if failed is not None and failed.message else ""
    if live is None:
        return f"{name} is about to be made.{before}"
    match live.phase:
        case ReplicaPhase.PENDING:
            why = f": {live.message}" if live.message else " for its turn."
            return f"{name} waits{why}{before}"
        case ReplicaPhase.STARTING:
            now = doing(live)
            how = f": {now}" if now else ""
            return f"{name} is being started (attempt {live.attempt}){how}.{before}"
        case ReplicaPhase.PROBING:
            return (
                f"{name} runs at {live.address} and has not answered GET "
                f"{session.serving.readiness_path} with 2xx yet; it has "
                f"{session.serving.start_timeout:g} s for that.{before}"
            )
        case _:
            said = f": {live.message}" if live.message else "."
            return f"{name} is {live.phase.value.lower()}{said}"
