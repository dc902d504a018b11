"""A local platform whose parts are killed, and folders in an odd state."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from podbay.errors import PodbayError
from podbay.local import LocalPlatform, mocks
from podbay.local.faults import LocalError
from podbay.local.processes import find_by_environment
from podbay.local.state import DataDir
from podbay_kit.mock_host import find_hosts
from tests.support.eventually import eventually_sync

TEXT = {"text": "hi"}
# Deeper than any socket's path may be, and with what needs quoting.
LONG = "/".join(["with spaces, Ω and 'quotes' " + "x" * 60] * 3)


class Own(mocks.Mock):
    """Counts its calls in this process."""

    calls = 0

    def infer(self, endpoint: str, request: Any) -> Any:
        Own.calls += 1
        return {"count": Own.calls}


def create(platform: LocalPlatform, mock_type: type, **options: Any) -> tuple[str, str]:
    service = platform.inferenceservices.create_mock(mock_type, **options)
    made = platform.inferencesessions.create(
        {"account": platform.account, "inferenceService": service.id}
    )
    return made.inferencesession.id, service.interface.endpoint


def test_a_folder_that_a_killed_machine_left(tmp_path: Path):
    root = tmp_path / LONG
    data = DataDir(root)
    with LocalPlatform(root) as platform:
        session = create(platform, mocks.Echo)
        assert platform.inferencesessions.infer(*session, TEXT, wait=True) == [TEXT]
        own = create(platform, Own, here=True)
        assert platform.inferencesessions.infer(*own, TEXT, wait=True)
        record = data.record_file.read_text()
        (host,) = find_hosts(data.mock_hosts)
        left = (data.mock_hosts / f"{host.host_id}.host").read_text()
    assert not find_hosts(data.mock_hosts)

    # What it would say if nothing had been cleaned up, with ids that others have now.
    stale = json.loads(record)
    others = psutil.Process(os.getppid())
    for each in (stale, *stale["services"]):
        each["pid"] = others.pid
    data.record_file.write_text(json.dumps(stale))
    (root / "users.lock").write_text(f"{others.pid}\n")
    data.lock_file.write_text(f"{others.pid}\n")
    for name in ("registry", "session-manager", "inference-router"):
        address = {"host": "127.0.0.1", "port": 9, "pid": others.pid}
        (data.run / f"{name}.json").write_text(json.dumps(address))
    (data.mock_hosts / f"{host.host_id}.host").write_text(left)
    (data.mock_hosts / "half-written.host").write_text('{"host_id": "x", ')
    with LocalPlatform(root) as platform:
        assert platform.inferencesessions.infer(*session, TEXT, wait=True, timeout=60) == [TEXT]
        assert len(platform.inferencesessions.query()) == 2
    assert others.is_running()
    assert list(find_by_environment(data.mark)) == []


def test_the_process_that_runs_the_services_is_killed(tmp_path: Path):
    root = tmp_path / "root"
    first = LocalPlatform(root, retries=0, timeout=5)
    try:
        session = create(first, Own, here=True)
        (before,) = first.inferencesessions.infer(*session, TEXT, wait=True)
        host = first._membership.record.pid
        os.kill(host, signal.SIGKILL)
        eventually_sync(
            lambda: not list(find_by_environment(DataDir(root).mark)), "its services end with it"
        )
        with pytest.raises(PodbayError) as caught:
            first.inferencesessions.get(session[0])
        assert caught.value.reason in {"SERVICE_UNREACHABLE", "CONNECTION_LOST"}
        # Another object on the same folder starts them again; what lives here goes on.
        with LocalPlatform(root) as second:
            assert second.inferencesessions.get(session[0]).status == "Admitted"
            answer = second.inferencesessions.infer(*session, TEXT, wait=True, timeout=60)
            assert answer == [{"count": before["count"] + 1}]
    finally:
        first.close()
    assert list(find_by_environment(DataDir(root).mark)) == []


def test_each_service_that_is_killed_comes_back(tmp_path: Path):
    with LocalPlatform(tmp_path / "root") as platform:
        session = create(platform, Own, here=True)
        platform.inferencesessions.infer(*session, TEXT, wait=True)
        for name in ("registry", "inference-router", "session-manager"):
            record = platform._membership.data.read_record()
            assert record is not None
            identity = record.service(name).identity()
            assert identity is not None
            identity.send(signal.SIGKILL)

            def works() -> bool:
                try:
                    platform.accounts.list()
                    platform.inferencesessions.get(session[0])
                    return bool(platform.inferencesessions.infer(*session, TEXT, timeout=5))
                except PodbayError:
                    return False

            eventually_sync(works, f"calls work after the {name} was killed", timeout=60)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("/proc/podbay", "DATA_DIR_NOT_WRITABLE"), ("x" * 200, "DATA_DIR_PATH_TOO_LONG")],
)
def test_a_folder_that_cannot_be_used(tmp_path: Path, folder: str, reason: str):
    with pytest.raises(LocalError) as caught:
        LocalPlatform(tmp_path / folder / folder / folder if reason.endswith("LONG") else folder)
    assert caught.value.reason == reason
    assert "PODBAY_DATA_DIR" in caught.value.way_out
