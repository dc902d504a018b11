"""Grants allow what they name, and nothing else."""

from __future__ import annotations

import pytest

from podbay.v1 import errors_pb2
from podbay_kit.auth import (
    Grant,
    Principal,
    Scope,
    bearer_token,
    require,
    require_service,
    scope_of,
)
from podbay_kit.errors import ServiceError


def grant(resources="*", functions="*", accounts="", entities=""):
    return Grant(*(frozenset(x.split()) for x in (resources, functions, accounts, entities)))


def principal(*grants, service=False):
    return Principal(account="a", token_id="t", grants=tuple(grants), service=service)


def test_a_grant_must_match_in_resource_function_and_account_or_entity():
    caller = principal(grant("models", "get query", accounts="acme", entities="m1"))
    require(caller, "models", "get", account="acme")
    require(caller, "models", "get", account="other", entity="m1")
    for resource, function, account, entity in [
        ("models", "delete", "acme", None),
        ("inferenceservices", "get", "acme", None),
        ("models", "get", "other", None),
        ("models", "get", "other", "m2"),
    ]:
        with pytest.raises(ServiceError) as caught:
            require(caller, resource, function, account=account, entity=entity)
        assert caught.value.reason == errors_pb2.ERROR_REASON_PERMISSION_DENIED


def test_two_grants_do_not_mix():
    caller = principal(
        grant("models", "get", accounts="x"), grant("models", "delete", accounts="y")
    )
    with pytest.raises(ServiceError):
        require(caller, "models", "delete", account="x")


def test_scope_shows_what_the_grants_reach():
    caller = principal(grant("models", "query", accounts="acme", entities="m9"))
    scope = scope_of(caller, "models")
    assert scope.includes("acme", "m1")
    assert scope.includes("other", "m9")
    assert not scope.includes("other", "m1")
    assert scope_of(caller, "inferencesessions") == Scope()
    assert scope_of(principal(grant(accounts="*")), "models").everything
    assert scope_of(principal(service=True), "models").everything


def test_services_may_do_everything_and_others_are_no_services():
    require(principal(service=True), "models", "delete", account="any")
    require_service(principal(service=True))
    with pytest.raises(ServiceError):
        require_service(principal(grant(accounts="*")))


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], errors_pb2.ERROR_REASON_TOKEN_MISSING),
        ([("other", "Bearer x")], errors_pb2.ERROR_REASON_TOKEN_MISSING),
        ([("authorization", "Basic eDp5")], errors_pb2.ERROR_REASON_TOKEN_INVALID),
        ([("authorization", "Bearer ")], errors_pb2.ERROR_REASON_TOKEN_INVALID),
    ],
)
def test_tokens_must_come_as_bearer(metadata, reason):
    with pytest.raises(ServiceError) as caught:
        bearer_token(metadata)
    assert caught.value.reason == reason


def test_bearer_token_is_returned():
    assert bearer_token([("authorization", "bearer  abc ")]) == "abc"
    assert bearer_token([("authorization", b"Bearer abc")]) == "abc"
