"""A service that runs out of open files goes on serving, and is well again without a restart."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from podbay.v1 import registry_service_pb2 as pb
from podbay.v1.registry_service_pb2_grpc import RegistryServiceStub
from podbay_kit.serving import connections_for
from tests.support.eventually import eventually_sync
from tests.support.registry import mock_model
from tests.support.registry_process import RegistryProcess

_FILES = 128


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryProcess]:
    """A registry that may have few files open."""
    process = RegistryProcess(tmp_path, "--no-fetch")
    process.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES)))
    yield process
    process.stop()


@contextlib.contextmanager
def flood(address: str, count: int) -> Iterator[list[socket.socket]]:
    """Hold many connections that say nothing."""
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        held = []
        for _ in range(count):
            made = socket.socket()
            stack.callback(made.close)
            made.settimeout(5)
            with contextlib.suppress(OSError):
                made.connect((host, int(port)))
            held.append(made)
        yield held


def make_model(registry: RegistryProcess, channel: grpc.Channel) -> str:
    """Make a model, which writes to the store; return its id."""
    made = RegistryServiceStub(channel).CreateModel(
        pb.CreateModelRequest(model=mock_model()),
        metadata=[("authorization", f"Bearer {registry.token}")],
        timeout=20,
    )
    return str(made.model.id)


def test_a_flood_of_connections_stops_nobody_who_is_there(registry: RegistryProcess) -> None:
    process = psutil.Process(registry.pid)
    with grpc.insecure_channel(registry.address) as channel:
        made = [make_model(registry, channel)]
        with flood(registry.address, 3 * _FILES):
            before = sum(process.cpu_times()[:2])
            # Who was connected before goes on, and the store has the files that it needs.
            made += [make_model(registry, channel) for _ in range(5)]
            assert process.num_fds() < _FILES
            # It does not spin over connections that it cannot take: less than a whole core, while
            # the clock of this process passes on a machine that may be busy.
            with pytest.raises(psutil.TimeoutExpired):
                process.wait(2)
            assert sum(process.cpu_times()[:2]) - before < 1.5
    # Afterwards somebody new is served by the same process.

    def served() -> bool:
        with grpc.insecure_channel(registry.address) as channel:
            try:
                made.append(make_model(registry, channel))
            except grpc.RpcError as error:
                assert error.code() in (  # type: ignore[attr-defined] # an error of a call
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                ), error
                return False
        return True

    eventually_sync(served, "somebody new is served after the flood")
    assert len(set(made)) == 7


@pytest.mark.parametrize(
    ("files", "connections"), [(-1, 100_000), (1, 1), (128, 64), (1024, 512), (1 << 20, 100_000)]
)
def test_connections_leave_files_for_the_service(files: int, connections: int) -> None:
    assert connections_for(files) == connections
