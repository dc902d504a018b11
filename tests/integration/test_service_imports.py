"""A service imports nothing that only others need.

What is imported is memory, in each process, and most of the time that a start takes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The first names of what a process must not have loaded once it is ready to serve.
_HEAVY = {"docker", "huggingface_hub", "onnxruntime", "opentelemetry", "prometheus_client", "rich"}
# What only some calls, installations or starts need: tokens, certificates, reflection, migrations.
_LATER = {"jwt", "cryptography.x509", "google.protobuf.descriptor_pb2", "alembic"}

_IMPORT = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print(*sys.modules)
"""

_START = """
import asyncio, pathlib, sys
from podbay_session_manager.server import Settings, serving

async def start():
    settings = Settings(
        listen="127.0.0.1:0",
        data_dir=pathlib.Path(sys.argv[1]),
        service_token="s" * 40,
        registry_endpoint="127.0.0.1:1",
        drivers=("process", "attached"),
    )
    async with serving(settings):
        print(*sys.modules)

asyncio.run(start())
"""


def modules_of(code: str, *arguments: str) -> set[str]:
    """Return the names of modules that a program prints, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def loaded(*modules: str) -> set[str]:
    """Return the full names, and the first ones, of all modules that importing some loads."""
    names = modules_of(_IMPORT, *modules)
    return names | {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            ["podbay_inference_router.__main__", "podbay_inference_router.workers"],
            {"google", "grpc", "jwt", "cryptography", "httptools", "pydantic", "sqlalchemy"},
        ),
        (
            ["podbay_inference_router.__main__", "podbay_inference_router.worker"],
            {"podbay_session_manager", "pydantic", "sqlalchemy", "uvicorn"} | _LATER,
        ),
        (
            ["podbay_registry.command_line"],
            {"httptools", "podbay_session_manager", "uvicorn"} | _LATER,
        ),
        (
            ["podbay_session_manager.command_line"],
            {"podbay_registry", "tarfile", "uvicorn"} | _LATER,
        ),
        # All that takes long is imported inside `uncollected`.
        (["podbay_registry.__main__"], {"asyncio", "grpc", "pydantic", "sqlalchemy"}),
        (["podbay_session_manager.__main__"], {"asyncio", "grpc", "pydantic", "sqlalchemy"}),
    ],
    ids=[
        "router's parent",
        "router's worker",
        "registry",
        "session manager",
        "registry's entry",
        "session manager's entry",
    ],
)
def test_a_service_imports_what_it_needs_only(modules: list[str], forbidden: set[str]) -> None:
    assert loaded(*modules) & (forbidden | _HEAVY) == set()


def test_a_session_manager_without_containers_leads_without_what_it_does_not_need(
    tmp_path: Path,
) -> None:
    assert "alembic" in modules_of(_START, str(tmp_path))  # the first start makes the schema
    assert modules_of(_START, str(tmp_path)) & ({"docker"} | _LATER) == set()
