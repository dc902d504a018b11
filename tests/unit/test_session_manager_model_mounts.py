"""The models that replicas mount: found, explained, and held while sessions use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError
from podbay_kit.model_cache import CacheProgress
from podbay_session_manager.model_mounts import ModelMounts, mounted_models
from podbay_session_manager.records import (
    DataMount,
    ScratchMount,
    ServiceSpec,
    Serving,
    SessionRecord,
)


class FakeCache:
    def __init__(self) -> None:
        self.held: set[str] = set()

    def hold(self, model_id: str, _holder: str) -> None:
        self.held.add(model_id)

    def release(self, model_id: str, _holder: str) -> None:
        self.held.remove(model_id)

    async def ensure(self, model_id: str, *, holder: str, progress: Any) -> Path:
        if model_id == "missing":
            raise ServiceError(errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, "There is no such model.")
        self.hold(model_id, holder)
        progress(CacheProgress(1, 2))
        return Path("/models", model_id)


def mount(source: str, kind: str = "Model") -> DataMount:
    return DataMount("data", "/data", kind, source)


def test_the_models_of_all_sessions_are_told() -> None:
    sessions = [
        SessionRecord(
            id=str(number),
            account="a",
            service=ServiceSpec(kind="container", name="s", mounts=mounts),
            serving=Serving(),
            driver="docker",
            desired=1,
            created_at=0.0,
        )
        for number, mounts in enumerate(
            [(mount("m1"), mount("m2")), (mount("m1"), ScratchMount("x", "/x", 1)), ()]
        )
    ]
    assert mounted_models(sessions) == {"m1", "m2"}


async def test_models_are_held_as_long_as_sessions_use_them() -> None:
    cache = FakeCache()
    mounts = ModelMounts(cache)  # type: ignore[arg-type]
    mounts.keep(frozenset({"m1"}))
    moved: list[tuple[int, int]] = []
    found = await mounts.resolve(mount("m2"), lambda done, total: moved.append((done, total)))
    assert (found, moved) == (Path("/models/m2"), [(1, 2)])
    assert cache.held == {"m1", "m2"}
    mounts.keep(frozenset({"m2"}))
    assert cache.held == {"m2"}
    mounts.keep(frozenset())
    assert cache.held == set()


@pytest.mark.parametrize(
    ("wanted", "why"),
    [(mount("missing"), "no such model"), (mount("d", "Dataset"), "this is a Dataset")],
)
async def test_what_cannot_be_had_says_why(wanted: DataMount, why: str) -> None:
    mounts = ModelMounts(FakeCache())  # type: ignore[arg-type]
    with pytest.raises(LookupError, match=why):
        await mounts.resolve(wanted, lambda _done, _total: None)
