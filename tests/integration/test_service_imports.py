"""A service imports nothing that only others need: what is imported is memory, in each process."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The first names of what a process must not have loaded once it is ready to serve.
_HEAVY = {"docker", "huggingface_hub", "onnxruntime", "opentelemetry", "prometheus_client", "rich"}


def loaded(*modules: str) -> set[str]:
    """Return the first names of all modules that importing some loads, in a process of its own."""
    code = "import importlib, sys\nfor m in sys.argv[1:]: importlib.import_module(m)\n"
    code += "print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code, *modules], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            ["podbay_inference_router.__main__", "podbay_inference_router.workers"],
            {"google", "grpc", "jwt", "cryptography", "httptools", "pydantic", "sqlalchemy"},
        ),
        (
            ["podbay_inference_router.__main__", "podbay_inference_router.worker"],
            {"alembic", "podbay_session_manager", "pydantic", "sqlalchemy", "uvicorn"},
        ),
        (["podbay_registry.__main__"], {"httptools", "podbay_session_manager", "uvicorn"}),
        (["podbay_session_manager.__main__"], {"podbay_registry", "tarfile", "uvicorn"}),
    ],
    ids=["router's parent", "router's worker", "registry", "session manager"],
)
def test_a_service_imports_what_it_needs_only(modules: list[str], forbidden: set[str]) -> None:
    assert loaded(*modules) & (forbidden | _HEAVY) == set()
