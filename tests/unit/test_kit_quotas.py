"""Quotas as the services share them."""

from __future__ import annotations

import argparse

import pytest

from podbay.v1 import account_pb2
from podbay_kit.errors import ServiceError
from podbay_kit.quotas import Quota, changed_quota, quota_of
from podbay_registry.quota_options import default_quota, limit
from podbay_session_manager.quotas import Ledger, Shortage, shortage_text

FULL = Quota(sessions=1, replicas=2, gpus={"t4": 3}, model_bytes=4, requests_in_flight=5)


def test_a_quota_survives_its_forms() -> None:
    for quota in (Quota(), FULL, Quota(sessions=0), Quota(gpus={"a": 0})):
        assert Quota.load(quota.dump()) == quota
        assert quota_of(quota.to_message()) == quota


def test_zero_is_a_limit_and_nothing_is_none() -> None:
    assert Quota(sessions=0).limits == {"sessions": 0}
    assert Quota().limits == {}
    assert FULL.limits == {"sessions": 1, "replicas": 2, "gpus.t4": 3}


def test_what_is_not_named_stays() -> None:
    changed = changed_quota(FULL, Quota(replicas=9, gpus={"a100": 1}), ["modelBytes", "gpus.t4"])
    assert changed == Quota(sessions=1, replicas=9, gpus={"a100": 1}, requests_in_flight=5)
    assert changed_quota(FULL, Quota(), ["gpus"]).gpus == {}


@pytest.mark.parametrize("name", ["session", "", "gpu", "model_bytes"])
def test_a_name_that_is_no_limit(name: str) -> None:
    with pytest.raises(ServiceError) as caught:
        changed_quota(FULL, Quota(), [name])
    assert caught.value.violations[0][0] == "unlimited.0"


@pytest.mark.parametrize(
    ("changes", "name"),
    [(Quota(sessions=1), "sessions"), (Quota(gpus={"a": 1}), "gpus.a"), (FULL, "gpus")],
)
def test_a_limit_cannot_be_set_and_lifted_at_once(changes: Quota, name: str) -> None:
    with pytest.raises(ServiceError):
        changed_quota(FULL, changes, [name])


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (account_pb2.AccountQuota(sessions=-1), "quota.sessions"),
        (account_pb2.AccountQuota(model_bytes=1 << 60), "quota.modelBytes"),
        (account_pb2.AccountQuota(gpus={"t4": -2}), "quota.gpus.t4"),
        (account_pb2.AccountQuota(gpus={" t4": 2}), "quota.gpus"),
        (account_pb2.AccountQuota(gpus={"": 2}), "quota.gpus"),
        (account_pb2.AccountQuota(gpus={str(n): 1 for n in range(101)}), "quota.gpus"),
    ],
)
def test_what_is_out_of_bounds(message: account_pb2.AccountQuota, path: str) -> None:
    with pytest.raises(ServiceError) as caught:
        quota_of(message)
    assert caught.value.violations[0][0] == path


def test_the_option_of_new_accounts() -> None:
    limits = [limit(text) for text in ("sessions=4", "gpus.nvidia.com/t4=2", "model-bytes=5Gi")]
    assert default_quota(limits) == Quota(
        sessions=4, gpus={"nvidia.com/t4": 2}, model_bytes=5 << 30
    )
    assert default_quota([]) == Quota()


@pytest.mark.parametrize("text", ["sessions", "gpus.=1", "gpus=1", "nodes=3", "sessions=many"])
def test_an_option_that_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        limit(text)
    with pytest.raises(argparse.ArgumentTypeError):
        default_quota([("sessions", -1)])


def test_what_a_quota_lacks_is_told_with_the_figures() -> None:
    ledger = Ledger({"acme": Quota(sessions=3, gpus={"t4": 4})})
    ledger.take("acme", {"sessions": 1, "gpus.t4": 3})
    ledger.keep("acme", {"sessions": 1, "gpus.t4": 2})
    # It asks for more than there can be: it keeps nothing from others.
    ledger.keep("acme", {"sessions": 1, "gpus.t4": 5})
    lacks = ledger.shortages("acme", {"sessions": 1, "gpus.t4": 1, "replicas": 90})
    assert lacks == (Shortage("gpus.t4", 1, 3, 2, 4),)
    text = shortage_text("acme", lacks)
    assert "GPUs t4: 1 needed, 3 of 4 used, 2 kept for sessions that wait longer" in text
    assert "starts when there is room" in text
    never = shortage_text("acme", ledger.shortages("acme", {"gpus.t4": 5}))
    assert "more than the account may have at all" in never
    assert not ledger.shortages("other", {"sessions": 99})
