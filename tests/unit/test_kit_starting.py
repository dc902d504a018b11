"""Imports at a start, without looking for garbage."""

from __future__ import annotations

import gc

import pytest

from podbay_kit.starting import uncollected


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def test_nothing_is_collected_meanwhile_and_what_came_is_left_alone_later():
    before = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
        came = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(came)
    assert not any(one is came for one in gc.get_objects())


def test_a_failed_import_leaves_the_collector_on():
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
