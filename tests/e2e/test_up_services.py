"""`podbay up` with the real services: from its start to the last process."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from podbay.local.ports import ephemeral_ports
from podbay.local.processes import ProcessIdentity
from tests.support.eventually import eventually_sync
from tests.support.up_command import FREE_PORTS, UP_SECONDS, Podbay

BODY = '{"text": "Open the pod bay doors, Hal!"}'
MOCK = "podbay.local.mocks.TextCompletion"


@pytest.fixture(scope="module")
def podbay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podbay]:
    """A `podbay up` in the background, for tests that leave it running."""
    podbay = Podbay(tmp_path_factory.mktemp("up"))
    podbay.start_detached()
    yield podbay
    podbay.ok("down")
    assert podbay.processes() == []


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Podbay]:
    """A data folder for a test that starts and stops by itself."""
    podbay = Podbay(tmp_path / "data")
    yield podbay
    podbay.run("down", "--timeout", "5s")


def running_session(podbay: Podbay, replicas: int = 1) -> str:
    service = podbay.json("service", "create-mock", MOCK)["id"]
    made = podbay.json(
        *("session", "create", service, "--replicas", str(replicas)),
        *("--wait", "--timeout", "60s"),
    )
    return str(made["inferencesession"]["id"])


def test_the_main_job_on_the_command_line(podbay: Podbay):
    status = podbay.json("status")
    assert status["healthy"] is True
    assert [s["state"] for s in status["services"]] == ["healthy"] * 3
    session = running_session(podbay)
    assert podbay.json("status")["sessions"] >= 1
    items = podbay.json("infer", session, BODY)
    assert items
    assert podbay.ok("infer", session, "-", "--stream", stdin=BODY).strip()
    table = podbay.ok("session", "list")
    assert session in table
    assert session in podbay.ok("session", "status", session)
    assert "takes calls" in podbay.ok("session", "explain", session)
    assert podbay.ok("node", "list").startswith("NAME")
    assert podbay.run("logs", session, "--tail", "5").returncode == 0
    assert podbay.ok("session", "token", session).count(".") == 2
    assert "Terminated" in podbay.ok("session", "terminate", session)
    ended = podbay.run("infer", session, BODY, "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stderr)["error"]["reason"] == "SESSION_TERMINATED"


def test_ports_stay_clear_of_outgoing_connections_and_files_of_others(podbay: Podbay):
    record = podbay.record()
    ports = {int(service.endpoint.rpartition(":")[2]) for service in record.services}
    assert len(ports) == 3
    assert not ports & set(ephemeral_ports())
    for path in (podbay.data.record_file, record.admin_token_file, podbay.data.service_token_file):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_admin_token_is_never_printed(podbay: Podbay):
    secret = podbay.record().admin_token_file.read_text().strip()
    shown = podbay.ok("status") + podbay.ok("status", "--json")
    for log in podbay.data.logs.iterdir():
        shown += log.read_text(errors="replace")
    assert secret not in shown


def test_a_second_up_on_the_folder_is_refused_with_the_first_ones_process(podbay: Podbay):
    done = podbay.run("up", *FREE_PORTS)
    assert done.returncode == 1
    assert "DATA_DIR_IN_USE" in done.stderr
    assert f"process {podbay.record().pid}" in done.stderr
    assert "podbay status" in done.stderr
    assert podbay.json("status")["healthy"] is True


def test_what_does_not_exist_ends_with_its_exit_code(podbay: Podbay):
    assert podbay.run("session", "get", "0" * 32).returncode == 3
    assert podbay.run("service", "get", "0" * 32).returncode == 3


@pytest.mark.parametrize("name", ["registry", "session-manager", "inference-router"])
def test_a_killed_service_comes_back_on_its_port_and_all_works_again(podbay: Podbay, name: str):
    before = podbay.record().service(name)
    session = running_session(podbay)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)

    def back() -> bool:
        now = podbay.record().service(name)
        return now.state == "running" and now.restarts > before.restarts

    eventually_sync(back, f"the {name} is restarted", timeout=UP_SECONDS)
    assert podbay.record().service(name).endpoint == before.endpoint
    assert podbay.json("infer", session, BODY, "--wait")
    other = running_session(podbay)
    assert podbay.json("infer", other, BODY)
    log = (podbay.data.logs / "up.log").read_text()
    assert f"{name:<17} was killed by SIGKILL" in log
    podbay.ok("session", "terminate", session, other)


def test_a_lost_admin_token_is_told_and_replaced_once(own: Podbay):
    own.start_detached()
    old = own.data.admin_token_file.read_text()
    own.ok("down")
    own.data.admin_token_file.unlink()
    assert "--reset-admin-token" in own.start_detached()
    own.ok("down")
    assert "--reset-admin-token" not in own.start_detached("--reset-admin-token")
    new = own.data.admin_token_file.read_text()
    assert new != old
    registry = own.record().service("registry")
    assert registry.pid is not None
    os.kill(registry.pid, signal.SIGKILL)

    def back() -> bool:
        service = own.record().service("registry")
        return service.restarts == 1 and service.state == "running"

    eventually_sync(back, "the registry is back", timeout=UP_SECONDS)
    assert own.data.admin_token_file.read_text() == new
    own.ok("account", "list")
    revoked = {token["id"] for token in own.json("token", "list") if token.get("revoked")}
    assert revoked == {old.partition(".")[0]}


def test_ctrl_c_finishes_and_leaves_no_process(own: Podbay):
    process = own.start()
    session = running_session(own, replicas=2)
    status = own.json("session", "status", session)
    replicas = [ProcessIdentity.of(replica["processId"]) for replica in status["replicas"]]
    marked = own.processes()
    # What verifies the end sees the replicas, too.
    assert {replica.pid for replica in replicas if replica} <= set(marked)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "no process is left" in output
    assert "had to be killed" not in output
    stops = [line.split()[0] for line in output.splitlines() if "stopped after" in line]
    assert stops == ["inference-router", "session-manager", "registry"]
    assert own.processes() == []
    assert not any(replica.is_running() for replica in replicas if replica)
    assert not own.data.record_file.exists()


def test_ctrl_c_during_the_start_leaves_no_process(own: Podbay):
    process = own.launch()
    eventually_sync(own.data.record_file.exists, "the first service was started")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "no process is left" in output
    assert own.processes() == []


def test_a_second_ctrl_c_ends_everything_at_once(own: Podbay):
    process = own.start()
    running_session(own)
    process.send_signal(signal.SIGINT)
    # Signals that are sent together may arrive as one.
    eventually_sync(lambda: _stops(own), "it stops")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in {0, 130}, output
    assert own.processes() == []


def _stops(podbay: Podbay) -> bool:
    record = podbay.data.read_record()
    return record is None or record.state == "stopping"


def test_a_killed_up_takes_its_services_along_and_the_next_one_starts(own: Podbay):
    process = own.start()
    process.kill()
    process.communicate()
    eventually_sync(lambda: own.processes() == [], "the services see their parent's end")
    stopped = own.run("status")
    assert stopped.returncode == 5
    assert "podbay up" in stopped.stdout
    assert "ended already" in own.ok("down")
    assert not own.data.record_file.exists()
    again = own.start()
    assert own.json("status")["healthy"] is True
    own.ok("down")
    assert again.wait(timeout=60) == 0
    again.communicate()


def test_a_port_in_use_is_told_with_its_owner_and_the_option(own: Podbay):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = own.run("up", "--registry-port", "0", "--session-manager-port", str(port))
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert f"process {os.getpid()}" in done.stderr
    assert "--session-manager-port" in done.stderr
    assert not own.data.record_file.exists()


def test_down_and_status_without_up_say_so(own: Podbay):
    assert own.run("status").returncode == 5
    assert "no `podbay up` runs" in own.ok("down")
    assert own.run("model", "list").returncode == 2
