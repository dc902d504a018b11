"""A service that cannot start says why: in the session's status, and to those who call it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from podbay import Client
from podbay.errors import PodbayError, SessionFailedError
from podbay.local import mocks
from podbay.schema.platform import is_status_failure

EXITS_AT_ONCE = (
    "import sys; print('loading weights'); print('no weights here', file=sys.stderr); sys.exit(3)"
)
NEVER_READY = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500, "still loading")
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
OPENS_NO_PORT = "import time; print('thinking', flush=True); time.sleep(3600)"


@pytest.fixture
def interface():
    return mocks.Echo().interface


def fail(client: Client, account: str, service) -> tuple[SessionFailedError, object, PodbayError]:
    """Return the error of waiting, the status, and the error of a call."""
    made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
    session_id = made.inferencesession.id
    with pytest.raises(SessionFailedError) as waited:
        client.inferencesessions.wait_ready(session_id, timeout=90)
    session = client.inferencesessions.get(session_id)
    assert is_status_failure(session.status)
    with (
        client.inferencesessions.client(
            session_id, made.token, interface=service.interface
        ) as calls,
        pytest.raises(PodbayError) as called,
    ):
        calls.infer({"a": 1})
    status = client.inferencesessions.status(session_id)
    assert status.ready is False
    assert called.value.reason == "SESSION_FAILED"
    for error in (waited.value, called.value):
        assert error.metadata["reason"].replace("_", "").lower() == session.reason.lower()
    return waited.value, session, called.value


def process(client: Client, account: str, interface, command, **options):
    return client.inferenceservices.create_process(
        command, interface, account=account, name="failing", **options
    )


def test_command_not_found(client, account, interface):
    service = process(client, account, interface, ["no-such-program", "--serve"])
    waited, session, called = fail(client, account, service)
    assert session.reason == "CommandNotFound"
    for text in (str(waited), session.message, str(called)):
        assert "no-such-program" in text


def test_command_not_executable(client, account, interface, tmp_path: Path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    service = process(client, account, interface, [str(program)])
    _, session, called = fail(client, account, service)
    assert session.reason == "CommandNotExecutable"
    assert called.metadata["reason"] == "COMMAND_NOT_EXECUTABLE"


def test_working_directory_not_found(client, account, interface, tmp_path: Path):
    service = process(
        client, account, interface, [sys.executable], working_dir=str(tmp_path / "nowhere")
    )
    _, session, called = fail(client, account, service)
    assert session.reason == "WorkingDirectoryNotFound"
    assert "nowhere" in str(called)


def test_exits_at_once(client, account, interface):
    service = process(client, account, interface, [sys.executable, "-c", EXITS_AT_ONCE])
    waited, session, called = fail(client, account, service)
    assert session.reason == "ReplicaExited"
    for text in (str(waited), session.message, str(called)):
        assert "no weights here" in text
        assert "3" in text
    assert called.metadata["exitCode"] == "3"


@pytest.mark.parametrize(
    ("source", "reason"), [(NEVER_READY, "NEVER_READY"), (OPENS_NO_PORT, "PORT_NOT_OPENED")]
)
def test_never_ready(client, account, interface, source, reason):
    service = process(
        client,
        account,
        interface,
        [sys.executable, "-c", source],
        serving={"start_timeout": 2},
    )
    _, _, called = fail(client, account, service)
    assert called.metadata["reason"] == reason
    assert ("500" in str(called)) == (source is NEVER_READY)


def test_port_taken(client, account, interface):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = process(
            client,
            account,
            interface,
            [sys.executable, "-c", OPENS_NO_PORT],
            env={"PORT": str(port)},
        )
        _, session, called = fail(client, account, service)
    assert session.reason == "PortTaken"
    assert str(port) in str(called)


def test_mock_not_importable(client, account, interface):
    service = client.inferenceservices.create_mock(
        "no_such_package.module.Class", account=account, interface=interface
    )
    _, session, called = fail(client, account, service)
    assert session.reason == "MockNotImportable"
    assert "no_such_package" in str(called)


def test_the_log_outlives_the_replica(client, account, interface):
    service = process(client, account, interface, [sys.executable, "-c", EXITS_AT_ONCE])
    made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
    session_id = made.inferencesession.id
    with pytest.raises(SessionFailedError):
        client.inferencesessions.wait_ready(session_id, timeout=60)
    client.inferencesessions.delete(session_id)
    lines = [line.text for line in client.inferencesessions.logs(session_id)]
    assert "no weights here" in lines
    assert "loading weights" in lines
