"""Logs over lost streams, and as the platform's workflow logs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from podbay._core.log_reading import LogReading
from podbay._core.workflow_logs import (
    ModelLogTail,
    WorkflowLogQuery,
    model_log_line,
    workflow_log_entry,
)
from podbay.errors import InvalidRequestError
from podbay.types import LogLine
from podbay.v1 import inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as sessions

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def line(text: str, ago: float | None = 0.0, replica: str = "a") -> LogLine:
    time = None if ago is None else NOW - timedelta(seconds=ago)
    return LogLine(replica, text, 0, time)


def test_reading_goes_on_after_the_last_line_of_each_replica() -> None:
    reading = LogReading("x", None, 5, follow=True)
    first = reading.operation()
    assert not first.request.positions
    answer = sessions.StreamInferenceSessionLogsResponse(
        positions=[inference_session_pb2.LogPosition(replica_id="b", offset=7)],
        lines=[inference_session_pb2.LogLine(replica_id="a", text="t", offset=4)],
    )
    answer.lines[0].time.FromDatetime(NOW.replace(tzinfo=None))
    taken = [reading.took(came) for came in first.decode(answer)]
    assert taken == [None, LogLine("a", "t", 4, NOW)]
    request = reading.operation().request
    assert {(p.replica_id, p.offset) for p in request.positions} == {("a", 4), ("b", 7)}
    assert (request.tail, request.follow) == (5, True)


@pytest.mark.parametrize("tail", [-1, 2**31])
def test_a_tail_is_a_number_of_lines(tail: int) -> None:
    with pytest.raises(InvalidRequestError, match="tail"):
        LogReading("x", None, tail, follow=False)


def test_an_entry_has_the_time_of_its_line_or_none() -> None:
    entry = workflow_log_entry(line("héllo"))
    assert entry.timestamp == "2030-01-01T12:00:00.000000Z"
    assert (entry.message, entry.labels) == ("héllo", {"replica": "a"})
    assert workflow_log_entry(line("x", None)).timestamp == ""


def test_lines_of_replicas_are_merged_by_time() -> None:
    lines = [
        line("a1", 30),
        line("a2", None),
        line("a3", 10),
        line("b1", 40, "b"),
        line("b2", 20, "b"),
        # The clock was set back: the order of the replica stays.
        line("b3", 50, "b"),
    ]
    answer = WorkflowLogQuery("x", None, 1000, NOW).answer(lines)
    assert [entry.message for entry in answer.logs] == ["b1", "a1", "a2", "b2", "b3", "a3"]
    assert answer.totalLines == 6
    assert (answer.workflow.kind, answer.workflow.id) == ("InferenceSession", "x")


def test_the_newest_within_the_limit_and_the_time() -> None:
    lines = [line(str(ago), ago) for ago in (4000, 3000, 50, 10)] + [line("?", None)]
    query = WorkflowLogQuery("x", "1h", 1000, NOW)
    assert [e.message for e in query.answer(lines).logs] == ["3000", "50", "10", "?"]
    assert [e.message for e in WorkflowLogQuery("x", "1m", 2, NOW).answer(lines).logs] == [
        "10",
        "?",
    ]
    assert len(WorkflowLogQuery("x", "999999999d", 9, NOW).answer(lines).logs) == 5


@pytest.mark.parametrize("since", ["", "1", "h", "1w", "-1h", "1.5h", "1h ", "\u0661h"])
def test_since_is_a_number_and_a_unit(since: str) -> None:
    with pytest.raises(InvalidRequestError, match="since"):
        WorkflowLogQuery("x", since, 1, NOW)


@pytest.mark.parametrize("limit", [0, -1, 2**31])
def test_a_limit_is_a_number_of_lines(limit: int) -> None:
    with pytest.raises(InvalidRequestError, match="limit"):
        WorkflowLogQuery("x", None, limit, NOW)


def test_lines_of_models_begin_with_their_time() -> None:
    entry = workflow_log_entry(model_log_line("2030-01-01T12:00:00Z fetched a b"))
    assert (entry.timestamp, entry.message) == ("2030-01-01T12:00:00.000000Z", "fetched a b")
    assert entry.labels == {}
    assert workflow_log_entry(model_log_line("no time")).message == "no time"
    query = WorkflowLogQuery("m", "1h", 1, NOW, kind="Model")
    texts = ["2030-01-01T09:00:00Z old", "2030-01-01T11:30:00Z mid", "2030-01-01T11:40:00Z new"]
    answer = query.answer(map(model_log_line, texts))
    assert (answer.workflow.kind, [entry.message for entry in answer.logs]) == ("Model", ["new"])


def test_a_log_that_is_followed_may_lose_its_beginning() -> None:
    tail = ModelLogTail()
    assert tail.new_lines(["a", "b"]) == ["a", "b"]
    assert tail.new_lines(["a", "b"]) == []
    assert tail.new_lines(["a", "b", "b"]) == ["b"]
    assert tail.new_lines(["b", "b", "c"]) == ["c"]
    assert tail.new_lines(["x", "y"]) == ["x", "y"]
