"""Evictions from the cache of models: enough leaves, and never what must stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podbay_kit.model_cache_plan import CachedModel, plan_eviction

_DIGESTS = "abcdefgh"
_SIZES = {digest: 1 + ord(digest) % 7 for digest in _DIGESTS}
_MODELS = st.lists(
    st.tuples(st.sets(st.sampled_from(_DIGESTS)), st.integers(0, 9), st.booleans()), max_size=6
)


@given(
    drawn=_MODELS,
    orphans=st.sets(st.sampled_from(_DIGESTS)),
    wanted=st.sets(st.sampled_from(_DIGESTS)),
    coming=st.integers(0, 30),
    quota=st.none() | st.integers(0, 60),
)
def test_evictions(
    drawn: list[tuple[set[str], int, bool]],
    orphans: set[str],
    wanted: set[str],
    coming: int,
    quota: int | None,
) -> None:
    models = [
        CachedModel(str(n), {d: _SIZES[d] for d in content}, used)
        for n, (content, used, _) in enumerate(drawn)
    ]
    kept = {str(n) for n, (_, _, is_kept) in enumerate(drawn) if is_kept}
    there = {d: _SIZES[d] for d in orphans.union(*(m.content for m in models))}
    plan = plan_eviction(models, there, kept=kept, wanted=wanted, coming=coming, quota=quota)
    used = sum(there.values())
    if quota is None or used + coming <= quota:
        assert (plan.models, plan.contents, plan.short) == ((), frozenset(), 0)
        return
    staying = [m for m in models if m.id not in plan.models]
    needed = wanted.union(*(m.content for m in staying))
    assert not plan.contents & needed
    assert not kept & set(plan.models)
    left = used - sum(there[d] for d in plan.contents)
    if plan.short:
        # Not even all that may leave would have been enough.
        least = wanted.union(*(m.content for m in models if m.id in kept)) & there.keys()
        assert sum(there[d] for d in least) + coming - quota == plan.short
        assert not plan.models
        return
    assert left + coming <= quota
    # The least recently used go first, and no more than must.
    order = sorted((m for m in models if m.id not in kept), key=lambda m: (m.last_used, m.id))
    assert list(plan.models) == [m.id for m in order[: len(plan.models)]]
    if plan.models:
        fewer = plan.models[:-1]
        users = wanted.union(*(m.content for m in models if m.id not in fewer))
        assert sum(size for d, size in there.items() if d in users) + coming > quota
