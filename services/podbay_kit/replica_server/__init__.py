"""The web server that puts a Python class (a mock) behind a replica's HTTP contract.

`python -m podbay_kit.replica_server package.module.Class` serves it as a process of its own, and
`ReplicaServer` in a running event loop. The web server is imported when that is first asked for.
"""

from typing import TYPE_CHECKING, Any

from podbay_kit.replica_server.errors import (
    BIND_FAILED_EXIT_CODE,
    MOCK_FAILED_EXIT_CODE,
    MOCK_NOT_IMPORTABLE_EXIT_CODE,
    PORT_TAKEN_EXIT_CODE,
    USAGE_EXIT_CODE,
    BindFailedError,
    MockFailedError,
    MockNotImportableError,
    PortTakenError,
    ReplicaStartError,
)
from podbay_kit.replica_server.loading import load_mock

if TYPE_CHECKING:
    from podbay_kit.replica_server.server import ReplicaServer

__all__ = [
    "BIND_FAILED_EXIT_CODE",
    "MOCK_FAILED_EXIT_CODE",
    "MOCK_NOT_IMPORTABLE_EXIT_CODE",
    "PORT_TAKEN_EXIT_CODE",
    "USAGE_EXIT_CODE",
    "BindFailedError",
    "MockFailedError",
    "MockNotImportableError",
    "PortTakenError",
    "ReplicaServer",
    "ReplicaStartError",
    "load_mock",
]


def __getattr__(name: str) -> Any:
    if name != "ReplicaServer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from podbay_kit.replica_server.server import ReplicaServer  # noqa: PLC0415 # heavy

    return ReplicaServer
