"""A platform in a script: what it starts, who shares it, what survives, what ends with it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from podbay import Client, InferenceSessionClient
from podbay.errors import NotFoundError
from podbay.local import LocalPlatform, mocks
from podbay.local.faults import LocalError
from podbay.local.processes import find_by_environment
from podbay.local.state import DataDir
from podbay.schema.platform import InferenceService
from podbay.schema.requests import InferenceSessionCreateRequest
from tests.support.eventually import eventually_sync

ROOT = Path(__file__).resolve().parents[2]
TEXT = {"text": "Open the pod bay doors, Hal!"}


class Greeter(mocks.Mock):
    def infer(self, endpoint: str, request: Any) -> Any:
        return {"greeting": f"hello {request['text']}", "process": os.getpid()}


def processes(root: Path) -> list[int]:
    """Return what runs of an installation: the host, services, replicas."""
    own = {process.pid for process in find_by_environment(DataDir(root).mark)}
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if "podbay.local.host" in command and str(root) in command:
            own.add(process.pid)
    return sorted(own)


@contextmanager
def calling(
    platform: Client, service: InferenceService, session_id: str | None = None
) -> Iterator[InferenceSessionClient]:
    sessions = platform.inferencesessions
    if session_id is None:
        request = InferenceSessionCreateRequest(
            account=service.account, inferenceService=service.id
        )
        session_id = sessions.create(request).inferencesession.id
    token = sessions.token(session_id)
    with sessions.client(session_id, token, interface=service.interface) as client:
        client.wait_ready(timeout=30)
        yield client


@contextmanager
def another_process(root: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.support.local_script", str(root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_script_infers_and_leaves_nothing_running(tmp_path: Path):
    with LocalPlatform(tmp_path / "root") as platform:
        assert processes(platform.storage_root)
        assert platform.account == "local"
        service = platform.inferenceservices.create_mock(mocks.TextCompletion)
        assert service.account == "local"
        request = InferenceSessionCreateRequest(account="local", inferenceService=service.id)
        session_id = platform.inferencesessions.create(request).inferencesession.id
        with calling(platform, service, session_id) as client:
            first, second = client.infer(TEXT)
            assert first["text"].startswith(TEXT["text"])
            assert len(second["text"]) > len(TEXT["text"])
        own = platform.inferenceservices.create_mock(Greeter, interface=service.interface)
        with calling(platform, own) as client:
            (greeting,) = client.infer(TEXT)
            assert greeting["greeting"] == "hello Open the pod bay doors, Hal!"
            assert greeting["process"] in processes(platform.storage_root)
        streaming = platform.inferenceservices.create_mock(mocks.StreamingTextCompletion)
        with calling(platform, streaming) as client:
            pieces = [piece["text"] for piece in client.stream(TEXT)]
            assert len(pieces) > 5
            assert "".join(pieces).startswith(TEXT["text"])
        for other in (own, streaming):
            (ended,) = platform.inferencesessions.query(inferenceService=other.id)
            platform.inferencesessions.terminate(ended.id)
    assert processes(platform.storage_root) == []
    platform.close()

    # What was stored is there again for the next script, and what ran runs again.
    with LocalPlatform(tmp_path / "root") as platform:
        assert platform.inferenceservices.get(service.id).name == service.name
        assert session_id in {each.id for each in platform.inferencesessions.query()}
        with calling(platform, service, session_id) as client:
            assert len(client.infer(TEXT)) == 2
        with pytest.raises(NotFoundError):
            platform.inferenceservices.get("0" * 32)
    assert processes(platform.storage_root) == []


def test_processes_share_the_services_whoever_leaves_first(tmp_path: Path):
    root = tmp_path / "root"
    with another_process(root) as first:
        endpoint = line(first)
        with LocalPlatform(root) as platform:
            assert platform.endpoint == endpoint
            service = platform.inferenceservices.create_mock(mocks.TextCompletion)
            with calling(platform, service) as client, another_process(root) as third:
                assert line(third) == endpoint
                running = processes(root)
                # The one that started the services is killed, the other ends as programs do.
                first.send_signal(signal.SIGKILL)
                first.wait(30)
                assert third.communicate("\n", timeout=30) == ("", "")
                assert third.returncode == 0
                for _ in range(20):
                    assert len(client.infer(TEXT)) == 2
                assert processes(root) == running
        assert processes(root) == []


def test_the_services_end_when_their_only_user_is_killed(tmp_path: Path):
    root = tmp_path / "root"
    with another_process(root) as user:
        assert line(user)
        assert processes(root)
        user.kill()
        eventually_sync(lambda: not processes(root), "nothing runs")
        # The next one starts them anew.
        with another_process(root) as next_one:
            assert line(next_one)
            assert next_one.communicate("\n", timeout=30) == ("", "")
            assert next_one.returncode == 0
            assert processes(root) == []


def test_it_works_beside_an_async_client_in_a_running_loop(tmp_path: Path):
    async def main() -> None:
        with LocalPlatform(tmp_path / "root") as platform:
            service = platform.inferenceservices.create_mock(mocks.TextCompletion)
            async with platform.async_client() as podbay:
                made = await podbay.inferencesessions.create(
                    InferenceSessionCreateRequest(account="local", inferenceService=service.id)
                )
                async with podbay.inferencesessions.client(
                    made.inferencesession.id, made.token, interface=service.interface
                ) as client:
                    await client.wait_ready(timeout=30)
                    with calling(platform, service, made.inferencesession.id) as blocking:
                        for _ in range(50):
                            answers = await asyncio.gather(*(client.infer(TEXT) for _ in range(8)))
                            assert [len(answer) for answer in answers] == [2] * 8
                            assert len(blocking.infer(TEXT)) == 2

    complaints: list[Any] = []
    with asyncio.Runner(debug=False) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(main())
    assert complaints == []
    assert processes(tmp_path / "root") == []


SCRIPT = """
from helper import PREFIX
from podbay.local import LocalPlatform, mocks

class Shout(mocks.Echo):
    class Inner(mocks.Echo):
        def infer(self, endpoint, request):
            return {"text": PREFIX + request["text"]}

def main():
    with LocalPlatform("store") as platform:
        service = platform.inferenceservices.create_mock(Shout.Inner)
        made = platform.inferencesessions.create(
            {"account": platform.account, "inferenceService": service.id}
        )
        with platform.inferencesessions.client(
            made.inferencesession.id, made.token, interface=service.interface
        ) as client:
            client.wait_ready(timeout=30)
            print(client.infer({"text": "hi"}))
"""


def run_script(folder: Path, source: str, **modules: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "helper.py").write_text('PREFIX = "from the helper: "\n')
    (folder / "audit.py").write_text(source)
    return subprocess.run(
        [sys.executable, "audit.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_class_of_a_module_beside_the_script(tmp_path: Path):
    done = run_script(tmp_path / "good", SCRIPT + '\nif __name__ == "__main__":\n    main()\n')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[{'text': 'from the helper: hi'}]\n"
    # A module that does its work while it is imported would do so in replicas again, and again.
    module = SCRIPT.replace("Shout.Inner", "Shout.Inner, here=False") + "\nmain()\n"
    done = run_script(tmp_path / "bad", "import work\n", work=module)
    assert done.returncode == 1
    assert 'put what it does under `if __name__ == "__main__":`' in done.stderr
    assert processes(tmp_path / "good" / "store") + processes(tmp_path / "bad" / "store") == []


def test_services_that_do_not_start_show_why(tmp_path: Path):
    root = tmp_path / "root"
    (root / "registry").mkdir(parents=True)
    (root / "registry" / "registry.sqlite3").write_text("this is no database " * 100)
    with pytest.raises(LocalError) as caught:
        LocalPlatform(root)
    assert caught.value.reason == "START_FAILED"
    assert "registry" in caught.value.message
    assert any("registry" in note for note in caught.value.__notes__)
    assert processes(root) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError) as caught:
        LocalPlatform(tmp_path / "file")
    assert caught.value.reason == "DATA_DIR_NOT_WRITABLE"
