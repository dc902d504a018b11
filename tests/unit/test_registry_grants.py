from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podbay.v1 import account_pb2, errors_pb2
from podbay_kit.auth import Grant, Principal, require, scope_of
from podbay_kit.errors import ServiceError
from podbay_registry import grants
from tests.support.registry import grant

RESOURCES = ["models", "inferenceservices", "apitokens"]
FUNCTIONS = ["get", "query", "create"]
ACCOUNTS = ["acme", "other"]
ENTITIES = ["e1", "e2"]


def principal(*held: account_pb2.Grant) -> Principal:
    return Principal("acme", "t", grants.grants_of(held))


@pytest.mark.parametrize(
    ("held", "wanted", "allowed"),
    [
        (grant("*", "*", "*"), grant("*", "*", "*", "*"), True),
        (grant("*", "*", "acme"), grant("models", "get", "acme"), True),
        (grant("*", "*", "acme"), grant("*", "*", "acme"), True),
        (grant("*", "*", "acme"), grant("*", "*", "acme other"), False),
        (grant("*", "*", "acme"), grant("*", "*", "*"), False),
        (grant("models", "*", "acme"), grant("*", "*", "acme"), False),
        (grant("models", "get", "acme"), grant("models", "get query", "acme"), False),
        (grant("models", "get", "acme", "e1"), grant("models", "get", "", "e1"), True),
        (grant("models", "get", "acme", "e1"), grant("models", "get", "", "e2"), False),
        (grant("models", "get", "", "*"), grant("models", "get", "", "e2"), True),
        # All ids are not all accounts: creating needs an account.
        (grant("models", "*", "", "*"), grant("models", "create", "acme"), False),
    ],
)
def test_only_what_is_held_can_be_handed_on(
    held: account_pb2.Grant, wanted: account_pb2.Grant, allowed: bool
) -> None:
    if allowed:
        grants.check_grantable(principal(held), grants.grants_of([wanted]))
        return
    with pytest.raises(ServiceError) as caught:
        grants.check_grantable(principal(held), grants.grants_of([wanted]))
    assert caught.value.reason == errors_pb2.ERROR_REASON_PERMISSION_DENIED


def test_what_is_held_may_come_from_several_grants() -> None:
    creator = principal(grant("models", "get", "acme"), grant("models", "get", "other", "e1"))
    grants.check_grantable(creator, grants.grants_of([grant("models", "get", "acme other", "e1")]))


def test_a_service_may_hand_on_everything() -> None:
    grants.check_grantable(Principal("", "s", service=True), grants.ADMIN_GRANTS)


def _lists(values: list[str], *, empty: bool = False) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(["*", *values]), min_size=0 if empty else 1, max_size=2)


_GRANTS = st.lists(
    st.builds(
        Grant,
        _lists(RESOURCES),
        _lists(FUNCTIONS),
        _lists(ACCOUNTS, empty=True),
        _lists(ENTITIES, empty=True),
    ),
    max_size=3,
)


def _may(who: Principal, resource: str, function: str, account: str, entity: str | None) -> bool:
    try:
        require(who, resource, function, account=account, entity=entity)
    except ServiceError:
        return False
    return True


@given(_GRANTS, _GRANTS)
def test_no_token_can_do_more_than_its_maker(held: list[Grant], wanted: list[Grant]) -> None:
    creator, made = Principal("a", "c", tuple(held)), Principal("a", "m", tuple(wanted))
    try:
        grants.check_grantable(creator, wanted)
    except ServiceError:
        return
    for resource in [*RESOURCES, "nodes"]:
        for function in [*FUNCTIONS, "delete"]:
            for account in [*ACCOUNTS, "third"]:
                for entity in [*ENTITIES, "e3", None]:
                    if _may(made, resource, function, account, entity):
                        assert _may(creator, resource, function, account, entity)
        mine, its = scope_of(creator, resource), scope_of(made, resource)
        assert mine.everything or (
            not its.everything and its.accounts <= mine.accounts and its.entities <= mine.entities
        )


@given(_GRANTS)
def test_grants_come_back_from_text_and_messages(held: list[Grant]) -> None:
    assert grants.load_grants(grants.dump_grants(held)) == tuple(held)
    messages = grants.to_messages(held)
    assert [frozenset(m.resources) for m in messages] == [g.resources for g in held]


@pytest.mark.parametrize(
    ("given_grants", "path"),
    [
        ([grant("", "*", "acme")], "grants.0.resources"),
        ([grant("*", "", "acme")], "grants.0.functions"),
        ([grant("*", "*")], "grants.0.accounts"),
        ([grant("*", "*", "acme"), grant("* model", "*", "acme")], "grants.1.resources.1"),
        ([grant("*", "read", "acme")], "grants.0.functions.0"),
        (
            [account_pb2.Grant(resources=["*"], functions=["*"], accounts=[""])],
            "grants.0.accounts.0",
        ),
        ([grant("*", "*", "acme", "x" * 129)], "grants.0.entities.0"),
        ([grant("*", "*", "acme")] * 101, "grants"),
        ([grant("*", "*", "a " * 1000)], "grants"),
    ],
)
def test_bad_grants_name_the_path(given_grants: list[account_pb2.Grant], path: str) -> None:
    with pytest.raises(ServiceError) as caught:
        grants.grants_of(given_grants)
    assert caught.value.violations[0][0] == path


def test_a_grant_on_everything_of_an_account() -> None:
    who = Principal("acme", "t", grants.own_account("acme"))
    assert _may(who, "models", "create", "acme", None)
    assert not _may(who, "models", "create", "other", None)
