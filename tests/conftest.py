"""What every test may rely on."""

from __future__ import annotations

import os
import shutil

import pytest

_TOOLS = {
    "needs_grpcurl": ("grpcurl", "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3")
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a tool that is not there, with a clear line; fail instead where asked."""
    if os.environ.get("PODBAY_TEST_REQUIRE_ALL") == "1":
        return
    for item in items:
        for marker, (tool, install) in _TOOLS.items():
            if item.get_closest_marker(marker) and shutil.which(tool) is None:
                item.add_marker(pytest.mark.skip(reason=f"{tool} is not installed: {install}"))
