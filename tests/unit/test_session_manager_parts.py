"""The pure parts of the session manager."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from podbay.v1 import account_pb2, errors_pb2, inference_session_pb2
from podbay.v1 import registry_service_pb2 as registry_pb
from podbay_kit.errors import ServiceError
from podbay_kit.process import SettingsError
from podbay_session_manager.auth import RegistryAuthenticator
from podbay_session_manager.codec import read_replica, read_session, write_record
from podbay_session_manager.command_line import _drivers, _parser
from podbay_session_manager.commands import check_open, delete, revoke_tokens, terminate
from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.logs import split_lines
from podbay_session_manager.machine import (
    PASSING_PHASES,
    REPLICA_TRANSITIONS,
    IllegalTransitionError,
    ReplicaPhase,
    SessionState,
    check_replica_transition,
    check_session_transition,
)
from podbay_session_manager.plan import plan_pass
from podbay_session_manager.plan_input import NodeRecord, ProbeState, World
from podbay_session_manager.policy import Policy
from podbay_session_manager.probe import ProbeTarget, probe_once
from podbay_session_manager.records import (
    Reason,
    ReplicaRecord,
    ServiceSpec,
    Serving,
    SessionRecord,
)
from podbay_session_manager.registry_client import RegistryUnavailableError
from podbay_session_manager.routes import reason_number
from podbay_session_manager.status import session_status
from podbay_session_manager.status_nodes import node_messages
from podbay_session_manager.texts import bounded_tail, exit_reason, explanation, whole_message
from podbay_session_manager.tokens import TokenSigner, make_key
from tests.support.clock import FakeClock

SESSION = SessionRecord(
    id="s1",
    account="acme",
    service=ServiceSpec(
        kind="mock",
        name="m",
        command=("a", "b"),
        args=("c",),
        env=(("X", "1"), ("PORT", "9000")),
        working_dir="/tmp",
    ),
    serving=Serving(),
    driver="process",
    desired=2,
    created_at=100.25,
    expires=None,
)
REPLICA = ReplicaRecord(
    id="r1",
    session_id="s1",
    index=0,
    attempt=1,
    driver="process",
    created_at=100.0,
    transition_at=100.0,
    log_tail=("a", "b"),
    reason=Reason.NEVER_READY,
)


def test_phases_and_reasons_are_those_of_the_protos() -> None:
    for phase in ReplicaPhase:
        inference_session_pb2.ReplicaPhase.Value(f"REPLICA_PHASE_{phase.value}")
    assert len(ReplicaPhase) == len(inference_session_pb2.ReplicaPhase.values()) - 1
    for reason in Reason:
        assert reason is Reason.NONE or reason_number(reason) > 0


def test_only_ended_phases_have_no_way_on() -> None:
    assert {p for p, after in REPLICA_TRANSITIONS.items() if not after} == {
        ReplicaPhase.STOPPED,
        ReplicaPhase.FAILED,
    }
    for phase in PASSING_PHASES:
        assert REPLICA_TRANSITIONS[phase]
    with pytest.raises(IllegalTransitionError):
        check_replica_transition(ReplicaPhase.STOPPED, ReplicaPhase.READY)
    with pytest.raises(IllegalTransitionError):
        check_session_transition(SessionState.ENDED, SessionState.ACTIVE)


def test_records_are_read_back_without_loss() -> None:
    assert read_session(write_record(SESSION)) == SESSION
    assert read_replica(write_record(REPLICA)) == REPLICA
    ended = terminate(dataclasses.replace(SESSION, expires=5.5, evidence={"a": "b"}), 7.0)
    assert read_session(write_record(ended)) == ended


def test_camel_case_of_reasons() -> None:
    assert Reason.COMMAND_NOT_FOUND.camel == "CommandNotFound"
    assert Reason.SESSION_EXPIRED.camel == "SessionExpired"


@pytest.mark.parametrize(
    ("arguments", "drivers"),
    [
        ([], ()),
        (["--drivers", "process, inprocess"], ("process", "inprocess")),
        (["--drivers", "process", "--listen", "[::1]:0"], ("process",)),
        (["--drivers", "inprocess", "--listen", "0.0.0.0:0"], ("inprocess",)),
        (["--drivers", "process", "--listen", "0.0.0.0:0"], None),
        (["--drivers", "kubernetes"], None),
        (
            ["--drivers=process", "--listen=0.0.0.0:0", "--allow-process-driver-off-loopback"],
            ("process",),
        ),
    ],
)
def test_drivers_are_chosen_with_care(
    arguments: list[str], drivers: tuple[str, ...] | None
) -> None:
    options = _parser().parse_args(["--data-dir=d", "--service-token-file=t", *arguments])
    if drivers is not None:
        assert _drivers(options) == drivers
        return
    with pytest.raises(SettingsError):
        _drivers(options)


def test_backoff_doubles_up_to_its_limit() -> None:
    policy = Policy()
    assert [policy.backoff(n) for n in range(5)] == [0, 0.2, 0.4, 0.8, 1.6]
    assert policy.backoff(1000) == 30


@pytest.mark.parametrize(
    ("code", "reason", "word"),
    [
        (None, Reason.REPLICA_LOST, "nothing is left"),
        (0, Reason.REPLICA_EXITED, "exit code 0"),
        (7, Reason.REPLICA_EXITED, "exit code 7"),
        (137, Reason.REPLICA_KILLED, "SIGKILL"),
        (143, Reason.REPLICA_KILLED, "SIGTERM"),
        (250, Reason.REPLICA_EXITED, "250"),
    ],
)
def test_exit_codes_have_reasons(code: int | None, reason: Reason, word: str) -> None:
    found, message = exit_reason(code)
    assert found is reason
    assert word in message


def test_a_failed_session_tells_what_its_replica_wrote() -> None:
    failed = replace(SESSION, status_message="It failed.", evidence={"log": "a\nb"})
    assert whole_message(failed) == "It failed.\nIt wrote last:\na\nb"
    assert whole_message(replace(failed, evidence={})) == "It failed."
    assert whole_message(SESSION) is None


@pytest.mark.parametrize(
    ("probe", "phase", "patience"),
    [
        (ProbeState(failures=2), ReplicaPhase.READY, None),
        (ProbeState(failures=3), ReplicaPhase.UNREADY, 30.0),
        (ProbeState(silences=19), ReplicaPhase.READY, None),
        (ProbeState(silences=20), ReplicaPhase.UNREADY, 600.0),
        (ProbeState(failures=3, silences=30), ReplicaPhase.UNREADY, 30.0),
    ],
)
def test_a_replica_that_is_silent_has_more_time_than_one_that_refuses(
    probe: ProbeState, phase: ReplicaPhase, patience: float | None
) -> None:
    ready = replace(REPLICA, phase=ReplicaPhase.READY, ready_at=100.0, node="local")
    seen = ObservedReplica("r1", "s1", running=True)
    world = World(
        sessions={"s1": replace(SESSION, desired=1)},
        replicas={"s1": {"r1": ready}},
        observed={"process": {"r1": seen}},
        probes={"r1": probe},
    )
    plan = plan_pass(world, 200.0, Policy())
    after = plan.replicas.get("r1", ready)
    assert after.phase is phase
    assert after.deadline == (None if patience is None else 200.0 + patience)


async def test_a_probe_tells_silence_from_refusal() -> None:
    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    ended = asyncio.Event()
    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = ProbeTarget("127.0.0.1", port, "/ready", serving=True)
    silent = await probe_once(target, ProbeState(answered=True), timeout=0.05)
    assert (silent.answered, silent.failures, silent.silences) == (False, 0, 1)
    ended.set()
    server.close()
    await server.wait_closed()
    refused = await probe_once(target, silent)
    assert (refused.answered, refused.failures, refused.silences) == (False, 1, 1)
    assert "connection refused" in refused.seen
    assert (refused.refused, refused.listened) == (True, False)


async def test_a_probe_remembers_that_a_port_was_open() -> None:
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Oh\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    target = ProbeTarget("127.0.0.1", server.sockets[0].getsockname()[1], "/ready", serving=False)
    answered = await probe_once(target, ProbeState())
    assert (answered.refused, answered.listened) == (False, True)
    server.close()
    await server.wait_closed()
    closed = await probe_once(target, answered)
    assert (closed.refused, closed.listened) == (True, True)


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (ProbeState(failures=9, refused=True), Reason.PORT_NOT_OPENED),
        (ProbeState(failures=9, refused=True, listened=True), Reason.NEVER_READY),
        (ProbeState(failures=9, listened=True), Reason.NEVER_READY),
        (ProbeState(silences=9), Reason.NEVER_READY),
        (ProbeState(), Reason.NEVER_READY),
    ],
)
def test_a_port_that_was_never_opened_has_a_reason_of_its_own(
    probe: ProbeState, reason: Reason
) -> None:
    late = dataclasses.replace(REPLICA, phase=ReplicaPhase.PROBING, deadline=100.0)
    world = World(
        sessions={"s1": SESSION},
        replicas={"s1": {"r1": late}},
        observed={late.driver: {"r1": ObservedReplica("r1", "s1", running=True)}},
        probes={"r1": probe},
    )
    after = plan_pass(world, 200.0, Policy()).replicas["r1"]
    assert (after.phase, after.reason) == (ReplicaPhase.STOPPING, reason)


@pytest.mark.parametrize(
    ("phase", "then"),
    [
        (ReplicaPhase.READY, ReplicaPhase.DRAINING),
        (ReplicaPhase.UNREADY, ReplicaPhase.DRAINING),
        (ReplicaPhase.PROBING, ReplicaPhase.STOPPING),
    ],
)
def test_a_replica_that_lost_its_gpus_ends_and_says_why(
    phase: ReplicaPhase, then: ReplicaPhase
) -> None:
    replica = dataclasses.replace(
        REPLICA, phase=phase, deadline=None, gpus=("0",), reason=Reason.NONE
    )
    seen = ObservedReplica("r1", "s1", running=True, lost_gpus="nvidia-smi in it said: oh")
    world = World(
        sessions={"s1": SESSION},
        replicas={"s1": {"r1": replica}},
        observed={replica.driver: {"r1": seen}},
    )
    after = plan_pass(world, 200.0, Policy()).replicas["r1"]
    assert (after.phase, after.reason) == (then, Reason.GPU_FAILED)
    assert "nvidia-smi in it said: oh" in after.message


def test_a_tail_keeps_the_last_lines_that_fit() -> None:
    assert bounded_tail(["a", "b", "c"], 4) == ("b", "c")
    (cut,) = bounded_tail(["é" * 100], 21)
    assert len(cut.encode()) <= 21
    assert bounded_tail([], 10) == ()


def test_an_explanation_names_what_is_waited_for() -> None:
    failed = dataclasses.replace(REPLICA, phase=ReplicaPhase.FAILED, message="it broke")
    waiting = dataclasses.replace(REPLICA, id="r2", attempt=2, message="no room")
    said = explanation(SESSION, [failed, waiting])
    assert "0 of 2" in said
    assert "no room" in said
    assert "it broke" in said
    assert "Replica 1 is about to be made" in said


def test_lines_are_split_with_their_positions() -> None:
    lines, position = split_lines(b"one\ntwo\r\nthr", 10, final=False)
    assert [(line.text, line.offset) for line in lines] == [("one", 14), ("two", 19)]
    assert position == 19
    lines, position = split_lines(b"thr", 19, final=True)
    assert [(line.text, line.offset) for line in lines] == [("thr", 22)]
    assert position == 22


def test_an_endless_line_is_cut_and_does_not_stop_the_reader() -> None:
    lines, position = split_lines(b"x" * 20_000, 0, final=False)
    assert position == 20_000
    assert lines[0].text.endswith("(cut)")
    assert split_lines(b"", 5, final=True) == ([], 5)


def test_commands_are_idempotent() -> None:
    ended = terminate(SESSION, 5.0)
    assert terminate(ended, 9.0) is ended
    assert (ended.status, ended.status_reason) == ("Terminated", "TerminateCommand")
    gone = delete(ended, 6.0)
    assert (gone.status, gone.ended_at) == ("Deleted", 5.0)
    assert delete(gone, 7.0) is gone
    assert revoke_tokens(SESSION, 1.0).epoch == SESSION.epoch + 1
    check_open(SESSION)
    with pytest.raises(ServiceError) as failure:
        check_open(ended)
    assert failure.value.reason == errors_pb2.ERROR_REASON_SESSION_TERMINATED


def test_a_status_counts_what_takes_calls() -> None:
    ready = dataclasses.replace(REPLICA, phase=ReplicaPhase.READY, reason=Reason.NONE)
    old = [
        dataclasses.replace(REPLICA, id=f"o{n}", attempt=n, phase=ReplicaPhase.FAILED)
        for n in (1, 2)
    ]
    ready = dataclasses.replace(ready, attempt=3)
    status = session_status(SESSION, [*old, ready], is_ready=lambda _: False, revision=9)
    assert not status.ready
    assert [r.id for r in status.replicas] == ["o2", "r1"]
    status = session_status(SESSION, [ready], is_ready=lambda _: True, revision=9)
    assert (status.ready, status.ready_replicas, status.desired_replicas) == (True, 1, 2)


def test_a_node_of_two_drivers_is_one_node() -> None:
    nodes = [NodeRecord("local", "process"), NodeRecord("local", "inprocess", unreachable="away")]
    placed = dataclasses.replace(REPLICA, phase=ReplicaPhase.PROBING, node="local")
    world = World({"s1": SESSION}, {"s1": {"r1": placed}}, {}, nodes=tuple(nodes))
    (message,) = node_messages(world)
    assert message.driver == "process,inprocess"
    assert message.state == inference_session_pb2.NODE_STATE_UNREACHABLE
    assert "away" in message.message
    assert message.replicas == 1


NOW = datetime(2030, 1, 1, tzinfo=UTC)


def test_tokens_are_limited_by_the_session() -> None:
    signer = TokenSigner("here", [make_key(2.0), make_key(1.0)])
    assert len(signer.verification_keys) == 2
    token, end = signer.sign(SESSION, NOW)
    assert end == NOW + timedelta(hours=24)
    assert jwt.get_unverified_header(token)["kid"] == signer.verification_keys[0].kid
    assert jwt.decode(token, options={"verify_signature": False})["iss"] == "here"
    limit = NOW + timedelta(minutes=5)
    short = dataclasses.replace(SESSION, expires=limit.timestamp())
    assert signer.sign(short, NOW)[1] == limit
    assert signer.sign(short, NOW, NOW + timedelta(minutes=1))[1] == NOW + timedelta(minutes=1)
    for refused in (NOW + timedelta(minutes=6), NOW - timedelta(seconds=1)):
        with pytest.raises(ServiceError):
            signer.sign(short, NOW, refused)


class Registry:
    def __init__(self) -> None:
        self.away = False
        self.answer = registry_pb.AuthenticateResponse(
            valid=True,
            api_token=account_pb2.ApiToken(
                id="t", account="acme", grants=[account_pb2.Grant(resources=["*"])]
            ),
        )
        self.asked = 0

    async def authenticate(self, secret: str) -> registry_pb.AuthenticateResponse:
        self.asked += 1
        if self.away:
            raise RegistryUnavailableError("UNAVAILABLE")
        return self.answer


async def test_tokens_are_remembered_for_a_while() -> None:
    clock, registry = FakeClock(), Registry()
    auth = RegistryAuthenticator(registry, "the-service-token", clock)
    assert (await auth.authenticate("abc")).account == "acme"
    clock.advance(1.9)
    assert (await auth.authenticate("abc")).account == "acme"
    assert registry.asked == 1
    clock.advance(0.2)
    await auth.authenticate("abc")
    assert registry.asked == 2


async def test_known_tokens_go_on_without_the_registry_for_a_while() -> None:
    clock, registry = FakeClock(), Registry()
    auth = RegistryAuthenticator(registry, "the-service-token", clock)
    await auth.authenticate("abc")
    registry.away = True
    clock.advance(599)
    assert (await auth.authenticate("abc")).account == "acme"
    with pytest.raises(ServiceError) as failure:
        await auth.authenticate("not seen before")
    assert failure.value.reason == errors_pb2.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    clock.advance(2)
    with pytest.raises(ServiceError):
        await auth.authenticate("abc")


async def test_a_revoked_token_is_forgotten() -> None:
    clock, registry = FakeClock(), Registry()
    auth = RegistryAuthenticator(registry, "the-service-token", clock)
    await auth.authenticate("abc")
    clock.advance(2.1)
    registry.answer = registry_pb.AuthenticateResponse(valid=False, reason="TOKEN_REVOKED")
    with pytest.raises(ServiceError) as failure:
        await auth.authenticate("abc")
    assert failure.value.reason == errors_pb2.ERROR_REASON_TOKEN_REVOKED
    registry.away = True
    with pytest.raises(ServiceError) as failure:
        await auth.authenticate("abc")
    assert failure.value.reason == errors_pb2.ERROR_REASON_DEPENDENCY_UNAVAILABLE


async def test_an_expired_token_is_refused_from_memory() -> None:
    clock, registry = FakeClock(), Registry()
    registry.answer.api_token.expires.FromDatetime(clock.now() + timedelta(seconds=30))
    auth = RegistryAuthenticator(registry, "the-service-token", clock)
    await auth.authenticate("abc")
    clock.advance(31)
    with pytest.raises(ServiceError) as failure:
        await auth.authenticate("abc")
    assert failure.value.reason == errors_pb2.ERROR_REASON_TOKEN_EXPIRED


async def test_the_service_token_needs_no_registry() -> None:
    registry = Registry()
    registry.away = True
    auth = RegistryAuthenticator(registry, "the-service-token", FakeClock())
    assert (await auth.authenticate("the-service-token")).service
    assert registry.asked == 0
