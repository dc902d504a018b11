"""What is exported, and that the two faces are the same."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import podbay
import podbay.client
import podbay.types
from podbay import AsyncClient, AsyncInferenceSessionClient, Client, InferenceSessionClient


def test_exports() -> None:
    assert podbay.__all__ == [
        "AsyncClient",
        "AsyncInferenceSessionClient",
        "Client",
        "InferResult",
        "InferenceSessionClient",
        "PodbayError",
        "SessionStatus",
        "__version__",
        "errors",
    ]
    for name in podbay.__all__:
        assert getattr(podbay, name) is not None
        assert name in dir(podbay)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = podbay.no_such_name


@pytest.mark.parametrize("module", [podbay.client, podbay.errors, podbay.types])
def test_all_is_there(module: Any) -> None:
    assert all(hasattr(module, name) for name in module.__all__)


def public(thing: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in inspect.getmembers(thing)
        if not name.startswith("_") and callable(value)
    }


def pairs() -> list[tuple[str, Any, Any]]:
    sync, other = Client("h:1", "t"), AsyncClient("h:1", "t")
    groups = [name for name in vars(sync) if not name.startswith("_")]
    assert groups == [name for name in vars(other) if not name.startswith("_")]
    assert len(groups) == 9
    raw = [name for name in vars(sync.raw) if not name.startswith("_")]
    return [
        ("Client", sync, other),
        ("InferenceSessionClient", InferenceSessionClient, AsyncInferenceSessionClient),
        *((name, getattr(sync, name), getattr(other, name)) for name in groups),
        *((f"raw.{name}", getattr(sync.raw, name), getattr(other.raw, name)) for name in raw),
    ]


@pytest.mark.parametrize(("name", "sync", "other"), pairs(), ids=lambda value: str(value)[:20])
def test_both_faces_have_the_same_methods(name: str, sync: Any, other: Any) -> None:
    mine, theirs = public(sync), public(other)
    assert set(mine) == set(theirs), name
    for method, value in mine.items():
        if inspect.isfunction(value) or inspect.ismethod(value):
            ours, twin = inspect.signature(value), inspect.signature(theirs[method])
            assert list(ours.parameters) == list(twin.parameters), method
            for parameter in ours.parameters.values():
                same = twin.parameters[parameter.name]
                assert (parameter.kind, parameter.default) == (same.kind, same.default), method
            assert value.__doc__, method
