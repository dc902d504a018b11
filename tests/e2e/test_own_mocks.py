"""Mocks whose class lives in the process that made it: what they share, and what ends with them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from podbay import InferenceSessionClient, PodbayError
from podbay.errors import InvalidRequestError, SessionFailedError, SessionNotReadyError
from podbay.local import LocalPlatform, mocks
from podbay.local.faults import LocalError
from podbay.schema.platform import InferenceService
from tests.support.eventually import eventually_sync

TEXT = {"text": "hi"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    with LocalPlatform(tmp_path_factory.mktemp("own mocks Ω")) as platform:
        yield platform


def session_of(platform: LocalPlatform, service: InferenceService, **fields: Any) -> str:
    request = {"account": service.account, "inferenceService": service.id, **fields}
    return platform.inferencesessions.create(request).inferencesession.id


def client_of(
    platform: LocalPlatform, service: InferenceService, session_id: str | None = None
) -> InferenceSessionClient:
    session_id = session_id or session_of(platform, service)
    sessions = platform.inferencesessions
    return sessions.client(session_id, sessions.token(session_id), interface=service.interface)


def test_a_class_of_a_function_shares_what_the_process_has(
    platform: LocalPlatform, capsys: pytest.CaptureFixture[str]
):
    seen: list[Any] = []
    built: list[object] = []

    class Local(mocks.Mock):
        def __init__(self) -> None:
            built.append(self)

        def infer(self, endpoint: str, request: Any) -> Any:
            seen.append((request, threading.current_thread() is threading.main_thread()))
            print(f"asked for {request['text']}")
            return [{"text": request["text"] * n, "pid": os.getpid()} for n in (1, 2)]

    service = platform.inferenceservices.create_mock(Local)
    assert service.name.endswith("<locals>.Local")
    assert len(built) == 1  # to be asked for its interface
    with client_of(platform, service, session_of(platform, service, replicas=2)) as client:
        answer = client.infer(TEXT, wait=True)
        assert answer == [{"text": "hi", "pid": os.getpid()}, {"text": "hihi", "pid": os.getpid()}]
        assert seen == [(TEXT, False)]
        assert capsys.readouterr().out == "asked for hi\n"
        for _ in range(20):
            client.infer(TEXT)
        eventually_sync(lambda: len(built) == 3, "both replicas are built")
        assert len(seen) == 21
    (node,) = {r.node for r in platform.inferencesessions.status(client.session_id).replicas}
    assert node == "local"


def test_answers_in_pieces_and_calls_that_are_cancelled(platform: LocalPlatform):
    ended: list[str] = []

    class Pieces(mocks.Mock):
        async def infer(self, endpoint: str, request: Any) -> Any:
            try:
                for number in range(request["count"]):
                    yield {"piece": number}
                    await asyncio.sleep(request["pause"])
            finally:
                ended.append("asynchronous")

    class Plain(mocks.Mock):
        def infer(self, endpoint: str, request: Any) -> Any:
            try:
                for number in range(request["count"]):
                    yield {"piece": number}
                    time.sleep(request["pause"])
            finally:
                ended.append("plain")

    for mock_type, kind in ((Pieces, "asynchronous"), (Plain, "plain")):
        service = platform.inferenceservices.create_mock(mock_type)
        with client_of(platform, service) as client:
            client.wait_ready(timeout=30)
            pieces = list(client.stream({"count": 4, "pause": 0}))
            assert pieces == [{"piece": number} for number in range(4)]
            assert ended.pop() == kind
            with pytest.raises(PodbayError) as caught:
                client.infer({"count": 10_000, "pause": 0.02}, timeout=0.3)
            assert caught.value.reason == "DEADLINE_EXCEEDED"
            eventually_sync(lambda kind=kind: ended == [kind], "the call ended in the mock, too")
            ended.clear()


def test_errors_say_what_the_class_raised(platform: LocalPlatform):
    class Refuses(mocks.Mock):
        def infer(self, endpoint: str, request: Any) -> Any:
            if "text" not in request:
                raise ValueError("no text, no answer")
            raise RuntimeError("the secret of the mock")

    service = platform.inferenceservices.create_mock(Refuses)
    with client_of(platform, service) as client:
        client.wait_ready(timeout=30)
        with pytest.raises(PodbayError, match="ValueError: no text, no answer"):
            client.infer({})
        with pytest.raises(PodbayError, match="RuntimeError in .*Refuses.infer") as caught:
            client.infer(TEXT)
        assert "secret" not in str(caught.value)
        lines = [line.text for line in platform.inferencesessions.logs(client.session_id)]
        assert "RuntimeError: the secret of the mock" in lines
        assert any("test_own_mocks.py" in line for line in lines)

    class Unmakeable(mocks.Mock):
        weights = ""

        def __init__(self) -> None:
            if self.weights:
                raise FileNotFoundError(f"no weights in {self.weights}")

        def infer(self, endpoint: str, request: Any) -> Any: ...

    service = platform.inferenceservices.create_mock(Unmakeable)
    Unmakeable.weights = "/models"
    session_id = session_of(platform, service)
    with pytest.raises(SessionFailedError, match="no weights in /models") as failed:
        platform.inferencesessions.wait_ready(session_id, timeout=30)
    assert failed.value.metadata["reason"] == "REPLICA_EXITED"
    lines = [line.text for line in platform.inferencesessions.logs(session_id)]
    assert "FileNotFoundError: no weights in /models" in lines
    assert any("raise FileNotFoundError" in line for line in lines)
    assert not any("loading.py" in line for line in lines)


def test_a_class_that_is_defined_again_leaves_old_sessions_alone(platform: LocalPlatform):
    def define(answer: str) -> type:
        class Changing(mocks.Mock):
            def infer(self, endpoint: str, request: Any) -> Any:
                return {"answer": answer}

        return Changing

    first = platform.inferenceservices.create_mock(define("old"))
    with client_of(platform, first) as old:
        assert old.infer(TEXT, wait=True) == [{"answer": "old"}]
        second = platform.inferenceservices.create_mock(define("new"))
        with client_of(platform, second) as new:
            assert new.infer(TEXT, wait=True) == [{"answer": "new"}]
            assert old.infer(TEXT) == [{"answer": "old"}]
            assert client_of(platform, first).infer(TEXT, wait=True) == [{"answer": "old"}]


def test_a_class_that_takes_its_time_to_start(platform: LocalPlatform):
    may_start = threading.Event()

    class Late(mocks.Echo):
        def __init__(self) -> None:
            may_start.wait(60)

    # It is also built to ask for its interface.
    may_start.set()
    service = platform.inferenceservices.create_mock(Late)
    may_start.clear()
    with client_of(platform, service) as client:
        with pytest.raises(SessionNotReadyError):
            client.infer(TEXT)
        may_start.set()
        assert client.infer(TEXT, wait=True, timeout=30) == [TEXT]


def test_where_a_class_runs_can_be_said(platform: LocalPlatform):
    create = platform.inferenceservices.create_mock
    for mock_type in (mocks.Echo, "podbay.local.mocks.Echo"):
        service = create(mock_type, here=True)
        assert service.name == "podbay.local.mocks.Echo"
        status = platform.inferencesessions.wait_ready(session_of(platform, service), timeout=30)
        assert [(r.driver, r.process_id) for r in status.replicas] == [("attached", os.getpid())]

    class Local(mocks.Echo):
        pass

    with pytest.raises(InvalidRequestError, match="cannot be imported by another process"):
        create(Local, here=False)
    with pytest.raises(InvalidRequestError, match="env: a mock in this process"):
        create(Local, env={"SEED": "1"})
    with pytest.raises(InvalidRequestError, match="no method infer"):
        create(type("Nothing", (), {}), interface=Local().interface)
    with pytest.raises(InvalidRequestError, match="does not live in a process"):
        platform.inferenceservices.attach_mock(create(mocks.Echo).id, Local)


def test_a_forked_child_is_no_host(platform: LocalPlatform):
    calls: list[Any] = []

    class Counting(mocks.Mock):
        def infer(self, endpoint: str, request: Any) -> Any:
            calls.append(request)
            return {"count": len(calls)}

    service = platform.inferenceservices.create_mock(Counting)
    with client_of(platform, service) as client:
        assert client.infer(TEXT, wait=True) == [{"count": 1}]
        mocks_of_child = platform._mocks
        child = os.fork()
        if child == 0:
            try:
                mocks_of_child.offer(Counting)
            except LocalError as error:
                os._exit(0 if error.reason == "FORKED" else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.infer(TEXT) == [{"count": 2}]


def test_the_replica_outlives_a_session_manager_that_is_killed(platform: LocalPlatform):
    calls: list[Any] = []

    class Counting(mocks.Mock):
        def infer(self, endpoint: str, request: Any) -> Any:
            calls.append(request)
            return {"count": len(calls), "object": id(self)}

    service = platform.inferenceservices.create_mock(Counting)
    with client_of(platform, service) as client:
        (before,) = client.infer(TEXT, wait=True)
        (manager,) = [
            process
            for process in psutil.process_iter(["cmdline"])
            if "podbay_session_manager" in (process.info["cmdline"] or [])
            and any(str(platform.storage_root) in part for part in process.info["cmdline"])
        ]
        manager.kill()
        eventually_sync(lambda: not manager.is_running(), "it is gone")
        # The router needs no session manager.
        assert client.infer(TEXT) == [{**before, "count": 2}]
        # Another session, so that the new one has looked at its drivers.
        other = session_of(platform, service)
        platform.inferencesessions.wait_ready(other, timeout=60)
        assert client.infer(TEXT) == [{**before, "count": 3}]
        status = platform.inferencesessions.status(client.session_id)
        assert [(r.phase, r.attempt) for r in status.replicas] == [("Ready", 1)]


SCRIPT = """
import sys
from podbay.local import LocalPlatform, mocks

class Shout(mocks.Mock):
    calls = 0
    class Inner(mocks.Mock):
        def infer(self, endpoint, request):
            Shout.calls += 1
            print("called with", request, flush=True)
            return {"text": request["text"].upper()}

platform = LocalPlatform(sys.argv[1])
service = platform.inferenceservices.create_mock(Shout.Inner)
made = platform.inferencesessions.create(
    {"account": platform.account, "inferenceService": service.id}
)
client = platform.inferencesessions.client(
    made.inferencesession.id, made.token, interface=service.interface
)
print(client.infer({"text": "hi"}, wait=True), Shout.calls)
print(service.id, made.inferencesession.id, flush=True)
"""
WAITS = "sys.stdin.readline()\n"
FORKS = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)\n" + WAITS


def run_script(folder: Path, source: str, root: Path) -> subprocess.Popen[str]:
    script = folder / "my audit-1.py"  # no module can have this name
    script.write_text(source)
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script), str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    assert process.stdout.readline() == "called with {'text': 'hi'}\n"
    assert process.stdout.readline() == "[{'text': 'HI'}] 1\n"
    return process.stdout.readline().split()


def test_a_class_of_a_script_without_a_guard(tmp_path: Path):
    with run_script(tmp_path, SCRIPT, tmp_path / "root") as script:
        out, errors = script.communicate(timeout=60)
    assert (script.returncode, errors) == (0, "")
    assert out.startswith("called with {'text': 'hi'}\n[{'text': 'HI'}] 1\n")


@pytest.mark.parametrize("source", [SCRIPT + WAITS, SCRIPT + FORKS], ids=["alone", "with a child"])
def test_what_is_left_when_its_process_is_killed(
    platform: LocalPlatform, tmp_path: Path, source: str
):
    with run_script(tmp_path, source, platform.storage_root) as script:
        try:
            service_id, session_id = told(script)
            service = platform.inferenceservices.get(service_id)
            # While both run, either's classes answer to the other.
            with client_of(platform, service, session_id) as client:
                assert client.infer({"text": "you"}) == [{"text": "YOU"}]
                children = psutil.Process(script.pid).children()
                script.send_signal(signal.SIGKILL)
                script.wait(30)
                eventually_sync(
                    lambda: not platform.inferencesessions.ready(session_id), "its end is noticed"
                )
                with pytest.raises(SessionNotReadyError, match=f"process {script.pid}.*has ended"):
                    client.infer(TEXT)
                other = session_of(platform, service)
                with pytest.raises(SessionFailedError, match="script or notebook again") as failed:
                    platform.inferencesessions.wait_ready(other, timeout=30)
                assert failed.value.metadata["reason"] == "MOCK_PROCESS_ENDED"
                # Whoever has such a class can let the service and its session go on.
                platform.inferenceservices.attach_mock(service_id, mocks.TextCompletion)
                assert client.infer(TEXT, wait=True, timeout=60)
        finally:
            script.kill()
            for child in children:
                child.kill()


def test_the_next_script_finds_services_and_sessions_again(tmp_path: Path):
    root = tmp_path / "root"
    with run_script(tmp_path, SCRIPT, root) as script:
        service_id, session_id = script.communicate(timeout=60)[0].split()[-2:]

    class Again(mocks.Mock):
        def infer(self, endpoint: str, request: Any) -> Any:
            return {"text": "again"}

    with LocalPlatform(root) as platform:
        service = platform.inferenceservices.get(service_id)
        assert service.name == "__main__.Shout.Inner"
        assert [each.id for each in platform.inferencesessions.query()] == [session_id]
        eventually_sync(
            lambda: "has ended" in platform.inferencesessions.status(session_id).explanation,
            "it says why it does not run",
        )
        platform.inferenceservices.attach_mock(service_id, Again)
        with client_of(platform, service, session_id) as client:
            assert client.infer(TEXT, wait=True, timeout=60) == [{"text": "again"}]
