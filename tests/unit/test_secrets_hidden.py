"""Whoever prints an object of ours, in a log or a traceback, prints no secret."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic
import pytest

import podbay
import podbay_inference_router
import podbay_kit
import podbay_registry
import podbay_session_manager
from podbay import AsyncClient, Client
from podbay.types import ApiToken, ApiTokenAndSecret
from podbay_kit.clock import SystemClock
from podbay_registry.authentication import RegistryAuthenticator as Authenticator
from podbay_registry.server import Settings as RegistrySettings
from podbay_registry.tokens import new_secret
from podbay_session_manager.auth import RegistryAuthenticator
from podbay_session_manager.key_plan import SigningKeyRow
from podbay_session_manager.server import Settings as ManagerSettings
from podbay_session_manager.tokens import TokenSigner, make_key

PACKAGES = (podbay, podbay_kit, podbay_registry, podbay_session_manager, podbay_inference_router)
# Parts of names of fields that hold secrets, and the fields of such names that hold none.
TELLING = ("token", "secret", "private", "password", "credential")
HARMLESS = {
    "token_id",
    "actor_token",
    "admin_token_id",
    "next_token",
    "admin_token_file",
    "hub_token_file",
    "token_file",
    "reset_admin_token",
    "token_number",
    "PageQuery.token",
    "Outcome.token",
    "ApiTokenAndSecret.token",
}


def classes() -> Iterator[type]:
    for package in PACKAGES:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith("__main__") or ".migrations" in found.name:
                continue
            module = importlib.import_module(found.name)
            for thing in vars(module).values():
                if isinstance(thing, type) and thing.__module__ == found.name:
                    yield thing


def shown_fields(cls: type) -> Iterator[str]:
    """Yield the names of the fields that a class's repr shows."""
    if dataclasses.is_dataclass(cls):
        yield from (each.name for each in dataclasses.fields(cls) if each.repr)
    elif issubclass(cls, pydantic.BaseModel):
        yield from (name for name, each in cls.model_fields.items() if each.repr)
    elif issubclass(cls, tuple):
        yield from getattr(cls, "_fields", ())


def test_no_field_shows_a_secret_in_its_repr() -> None:
    seen = 0
    showing = []
    for cls in classes():
        for name in shown_fields(cls):
            seen += 1
            if any(part in name.lower() for part in TELLING):
                showing.append((cls.__name__, name))
    assert seen > 500
    left = [
        f"{cls}.{name}"
        for cls, name in showing
        if name not in HARMLESS and f"{cls}.{name}" not in HARMLESS
    ]
    assert left == []


SECRET = secrets.token_urlsafe(24)
NOW = datetime.now(UTC)


def registry_settings() -> RegistrySettings:
    return RegistrySettings(
        "127.0.0.1:0", Path("d"), SECRET, Path("a"), "127.0.0.1:1", "127.0.0.1:2"
    )


class _NoRegistry:
    async def authenticate(self, secret: str) -> Any:
        raise NotImplementedError


HOLDERS: dict[str, Any] = {
    "client": lambda: Client("h:1", SECRET),
    "async client": lambda: AsyncClient("h:1", SECRET),
    "session client": lambda: Client("h:1", SECRET).inferencesessions.client(
        "s", SECRET, endpoint="e"
    ),
    "settings of a registry": registry_settings,
    "settings of a session manager": lambda: ManagerSettings(
        "127.0.0.1:0", Path("d"), SECRET, "127.0.0.1:1"
    ),
    "a new token": lambda: ApiTokenAndSecret(ApiToken("i", "a", "n", (), NOW, None, None), SECRET),
    "authenticator of a session manager": lambda: RegistryAuthenticator(
        _NoRegistry(), SECRET, SystemClock()
    ),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_what_holds_a_secret_does_not_show_it(name: str) -> None:
    holder = HOLDERS[name]()
    for text in (repr(holder), str(holder), f"{holder}"):
        assert SECRET not in text


def test_keys_are_not_shown() -> None:
    key: SigningKeyRow = make_key(0.0)
    assert str(key.private_key) not in repr(key)
    assert "private_key" not in repr(key)
    assert key.private_key.hex() not in repr(TokenSigner("i", [key]))
    secret = new_secret()
    assert secret.secret not in repr(secret)
    # The registry remembers digests, not secrets.
    assert SECRET not in str(vars(Authenticator(None, SECRET, SystemClock())))  # type: ignore[arg-type]
