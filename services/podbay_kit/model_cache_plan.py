"""Which models leave a cache, so that another one fits. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["CachedModel", "Eviction", "plan_eviction"]


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model that is in the cache.

    Attributes:
        id: The id.
        content: The size of each of its contents by its SHA-256.
        last_used: When it was last asked for, in seconds since the epoch.
    """

    id: str
    content: Mapping[str, int]
    last_used: float


@dataclass(frozen=True, slots=True)
class Eviction:
    """What leaves.

    Attributes:
        models: The ids of models whose folders go.
        contents: The digests of contents that go, with them or because no model has them.
        short: How many bytes are lacking even so; 0 where there is room then.
    """

    models: tuple[str, ...]
    contents: frozenset[str]
    short: int


def plan_eviction(
    models: Sequence[CachedModel],
    there: Mapping[str, int],
    *,
    kept: Collection[str],
    wanted: Collection[str],
    coming: int,
    quota: int | None,
) -> Eviction:
    """Return what must leave so that some bytes fit: the least recently used first.

    Args:
        models: The models in the cache.
        there: The size of every content in the cache by its SHA-256.
        kept: The ids of models that must stay.
        wanted: Contents that must stay whatever models have them.
        coming: How many bytes are to come, those of other transfers included.
        quota: The most bytes that the cache may have; None for no limit.
    """
    if quota is None:
        return Eviction((), frozenset(), 0)
    users = dict[str, int]()
    for model in models:
        for sha256 in model.content:
            users[sha256] = users.get(sha256, 0) + 1
    used = sum(there.values())
    gone = set[str]()

    def drop(contents: Collection[str]) -> int:
        doomed = {sha256 for sha256 in contents if sha256 in there and sha256 not in wanted}
        gone.update(doomed)
        return sum(there[sha256] for sha256 in doomed)

    if used + coming > quota:
        used -= drop([sha256 for sha256 in there if sha256 not in users])
    leaving = []
    for model in sorted(models, key=lambda model: (model.last_used, model.id)):
        if used + coming <= quota:
            break
        if model.id in kept:
            continue
        leaving.append(model.id)
        alone = []
        for sha256 in model.content:
            users[sha256] -= 1
            if not users[sha256]:
                alone.append(sha256)
        used -= drop(alone)
    short = max(0, used + coming - quota)
    if short:
        # It would not help: nothing leaves for nothing.
        return Eviction((), frozenset(), short)
    return Eviction(tuple(leaving), frozenset(gone), 0)
