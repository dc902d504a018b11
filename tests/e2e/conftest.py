"""One platform for the tests that do not disturb it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from podbay import Client
from tests.support.platform import Platform


@pytest.fixture(scope="package")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with two router workers, shared; tests clean up their own sessions."""
    with Platform(tmp_path_factory.mktemp("platform"), ("--workers=2",)) as platform:
        yield platform


@pytest.fixture
def client(platform: Platform) -> Iterator[Client]:
    """A client of the shared platform."""
    with platform.client() as client:
        yield client


@pytest.fixture
def account(client: Client) -> str:
    """The administrator's account."""
    return client.installation().account
