"""Logs of replicas and of models in the form of the platform's workflow logs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from podbay._core.log_reading import MAX_TAIL
from podbay._core.wire_errors import invalid
from podbay.schema.platform import EntityIdentifier, WorkflowLogEntry, WorkflowLogsResponse
from podbay.types import LogLine

__all__ = ["ModelLogTail", "WorkflowLogQuery", "model_log_line", "workflow_log_entry"]

_SINCE: Final = re.compile(r"(?P<count>\d{1,9})(?P<unit>[smhd])", re.ASCII)
_MODEL_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def workflow_log_entry(line: LogLine) -> WorkflowLogEntry:
    """Return a line as an entry; its timestamp is empty where nobody has noted the time."""
    time = ""
    if line.time is not None:
        time = line.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    labels = {"replica": line.replica_id} if line.replica_id else {}
    return WorkflowLogEntry(timestamp=time, message=line.text, labels=labels)


def model_log_line(text: str) -> LogLine:
    """Return a line of a model's log, which begins with the time, without it."""
    stamp, _, rest = text.partition(" ")
    try:
        time = datetime.strptime(stamp, _MODEL_TIME).replace(tzinfo=UTC)
    except ValueError:
        return LogLine(replica_id="", text=text, offset=0)
    return LogLine(replica_id="", text=rest, offset=0, time=time)


class ModelLogTail:
    """Tells the new lines of a model's log, which is read as a whole again and again."""

    def __init__(self) -> None:
        self._known: list[str] = []

    def new_lines(self, lines: Iterable[str]) -> list[str]:
        """Return the lines that were not there before; old ones may be dropped meanwhile."""
        now = list(lines)
        known = self._known
        self._known = now
        for dropped in range(len(known) + 1):
            kept = known[dropped:]
            if now[: len(kept)] == kept:
                return now[len(kept) :]
        return now


class WorkflowLogQuery:
    """Which lines are asked for.

    Args:
        id: The session, or the model.
        since: Only lines of the last "90s", "30m", "1h" or "2d"; all unless given.
        limit: The most lines, the newest.
        now: The time from which `since` counts.
        kind: What it is.

    Raises:
        InvalidRequestError: `since` or `limit` is not valid.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 # as in the client
        since: str | None,
        limit: int,
        now: datetime,
        *,
        kind: Literal["InferenceSession", "Model"] = "InferenceSession",
    ) -> None:
        if not 1 <= limit <= MAX_TAIL:
            raise invalid("limit", f"must be 1 to {MAX_TAIL}")
        self.limit = limit
        self._workflow = EntityIdentifier(kind=kind, id=id)
        self._from = None if since is None else now - _duration(since)

    def answer(self, lines: Iterable[LogLine]) -> WorkflowLogsResponse:
        """Return the answer.

        Args:
            lines: The last `limit` lines of each replica, in order for each.
        """
        found = [line for line in _in_order(lines) if self._is_wanted(line)][-self.limit :]
        return WorkflowLogsResponse(
            workflow=self._workflow,
            logs=[workflow_log_entry(line) for line in found],
            totalLines=len(found),
        )

    def _is_wanted(self, line: LogLine) -> bool:
        # A line of which nobody knows the time is rather shown than hidden.
        return self._from is None or line.time is None or line.time >= self._from


def _duration(since: str) -> timedelta:
    match = _SINCE.fullmatch(since)
    if match is None:
        raise invalid("since", 'must be a number and a unit, as "90s", "30m", "1h" or "2d"')
    # More than the calendar holds is all there is.
    return timedelta(seconds=min(int(match["count"]) * _SECONDS[match["unit"]], 86400 * 365_000))


def _in_order(lines: Iterable[LogLine]) -> list[LogLine]:
    """Return the lines of several replicas by time; those of one replica stay in their order."""
    latest: dict[str, float] = {}
    keyed: list[tuple[float, int, LogLine]] = []
    for number, line in enumerate(lines):
        known = line.time.timestamp() if line.time is not None else 0.0
        # A clock that was set back must not turn lines around.
        latest[line.replica_id] = max(latest.get(line.replica_id, 0.0), known)
        keyed.append((latest[line.replica_id], number, line))
    return [line for _, _, line in sorted(keyed, key=lambda entry: entry[:2])]
