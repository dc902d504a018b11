"""The local platform in a notebook: a real kernel, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from podbay.local.processes import find_by_environment
from podbay.local.state import DataDir
from tests.support.eventually import eventually_sync

START = """
from podbay.local import LocalPlatform, mocks
platform = LocalPlatform({root!r})
"""
DEFINE = """
seen = []
class Mine(mocks.Mock):
    def infer(self, endpoint, request):
        seen.append(request["text"])
        print("cell {number} was asked")
        return [{{"text": request["text"] + "{mark}"}}]
service = platform.inferenceservices.create_mock(Mine)
made = platform.inferencesessions.create(
    {{"account": platform.account, "inferenceService": service.id}}
)
client{number} = platform.inferencesessions.client(
    made.inferencesession.id, made.token, interface=service.interface
)
"""
BESIDE = """
import asyncio
async with platform.async_client() as podbay:
    session = podbay.inferencesessions.client(
        made.inferencesession.id, made.token, interface=service.interface
    )
    async with session:
        answers = await asyncio.gather(*(session.infer({"text": str(n)}) for n in range(200)))
        blocking = [client2.infer({"text": "b"}) for _ in range(20)]
print(len(answers), answers[7], blocking[-1], len(seen))
"""
AGAIN = """
(service,) = platform.inferenceservices.query(id={service!r})
class Mine(mocks.Mock):
    def infer(self, endpoint, request):
        return {{"text": "after the restart"}}
platform.inferenceservices.attach_mock(service.id, Mine)
(session,) = platform.inferencesessions.query(id={session!r})
client = platform.inferencesessions.client(
    session.id, platform.inferencesessions.token(session.id), interface=service.interface
)
print(client.infer({{"text": "x"}}, wait=True, timeout=60))
"""


class Kernel:
    """A kernel in which cells run."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client

    def run(self, code: str) -> str:
        """Run a cell; return what it printed, standard output and error in order."""
        printed: list[str] = []

        def took(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self._client.execute_interactive(
            code, store_history=True, timeout=90, output_hook=took
        )
        content = reply["content"]
        assert content["status"] == "ok", "\n".join(content.get("traceback", []))
        return "".join(printed)


@contextmanager
def kernel(folder: Path) -> Iterator[tuple[Kernel, Any]]:
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder))
    try:
        yield Kernel(client), manager
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@pytest.mark.timeout(300)
def test_a_platform_in_a_notebook(tmp_path: Path):
    root = tmp_path / "root"
    with kernel(tmp_path) as (notebook, manager):
        assert notebook.run(START.format(root=str(root))) == ""
        notebook.run(DEFINE.format(number=1, mark="!"))
        out = notebook.run("print(client1.infer({'text': 'hi'}, wait=True), seen)")
        assert out == "cell 1 was asked\n[{'text': 'hi!'}] ['hi']\n"
        # The same name again: the new service has the new class, the old session the old one.
        notebook.run(DEFINE.format(number=2, mark="?"))
        out = notebook.run("print(client2.infer({'text': 'hi'}, wait=True))")
        assert out == "cell 2 was asked\n[{'text': 'hi?'}]\n"
        out = notebook.run("print(client1.infer({'text': 'hi'}))")
        assert out == "cell 1 was asked\n[{'text': 'hi!'}]\n"
        # In the kernel's running loop.
        out = notebook.run(BESIDE)
        assert out.count("cell 2 was asked") == 220
        # The old class's call went into the new cell's list as well: names are the notebook's.
        assert "200 [{'text': '7?'}] [{'text': 'b?'}] 222\n" in out
        notebook.run("%%writefile beside.py\nfrom podbay.local import mocks\n" + BESIDE_MODULE)
        assert notebook.run(USE_MODULE) == "[{'text': 'of a module'}] False\n"
        service, session = notebook.run("print(service.id, made.inferencesession.id)").split()
        # A restart kills the kernel; nothing was closed.
        manager.shutdown_kernel(now=True)
    eventually_sync(lambda: not list(find_by_environment(DataDir(root).mark)), "all has ended")

    with kernel(tmp_path) as (notebook, _manager):
        assert notebook.run(START.format(root=str(root))) == ""
        out = notebook.run(AGAIN.format(service=service, session=session))
        assert out == "[{'text': 'after the restart'}]\n"
        assert notebook.run("platform.close()") == ""
        assert list(find_by_environment(DataDir(root).mark)) == []


BESIDE_MODULE = """
import os
class Beside(mocks.Mock):
    def infer(self, endpoint, request):
        return {"text": "of a module", "pid": os.getpid()}
"""
USE_MODULE = """
import os
from beside import Beside
other = platform.inferenceservices.create_mock(Beside)
made_other = platform.inferencesessions.create(
    {"account": platform.account, "inferenceService": other.id}
)
with platform.inferencesessions.client(
    made_other.inferencesession.id, made_other.token, interface=other.interface
) as beside:
    (answer,) = beside.infer({"text": "x"}, wait=True, timeout=60)
pid = answer.pop("pid")
print([answer], pid == os.getpid())
"""
