"""Every RPC needs what the table says, no more and no less, and tells nothing of what others have.

The cases come out of the table: a new RPC without a request here fails, as one does whose servicer
asks for nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

from podbay_kit.rpc_rules import RESOURCES, RULES, Found, Need, Who
from tests.support.grant_worlds import (
    ACCOUNT,
    UNKNOWN,
    Answer,
    Case,
    World,
    all_but,
    cases,
    named,
    only,
    registry_world,
    session_manager_world,
)
from tests.support.registry import grant

WORLDS = {"RegistryService": registry_world, "SessionManagerService": session_manager_world}


@pytest.fixture(params=list(WORLDS))
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with WORLDS[request.param](tmp_path) as made:
        yield made


def info_of(answer: Answer) -> dict[str, str]:
    """Return the reason and the evidence of a refusal."""
    status = status_pb2.Status.FromString(answer.details)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    return {"reason": info.reason, **info.metadata}


def missing(need: Need) -> dict[str, str]:
    return {"resource": need.resource, "function": need.function}


async def test_every_rpc_has_a_request(world: World) -> None:
    assert set(world.requests) == set(cases(world.service))


async def test_who_has_everything_but_what_is_needed_is_refused(world: World) -> None:
    for case in cases(world.service):
        for need in case.needs(world.service):
            token = await world.token(all_but(need))
            answer = await world.ask(case.method, await world.requests[case](None), token)
            assert answer.code == "PERMISSION_DENIED", (case, answer)
            told = info_of(answer)
            assert told.pop("reason") == "PERMISSION_DENIED", case
            # Where another way would do, too, what is missing for it may be told instead.
            others = RULES[f"/podbay.v1.{world.service}/{case.method}"].needs()
            assert told in [missing(each) for each in others], case
            assert f"needs {told['function']!r} on {told['resource']!r}" in answer.message, case


async def test_who_has_only_what_is_needed_passes(world: World) -> None:
    for case in cases(world.service):
        needs = case.needs(world.service)
        token = await world.token(only(needs))
        answer = await world.ask(case.method, await world.requests[case](None), token)
        assert not answer.refused, (case, answer)
        assert answer.code not in {"INTERNAL", "UNKNOWN"}, (case, answer)
        # And on its own account alone, where it is not the installation's.
        if all(need.found is not Found.INSTALLATION for need in needs):
            account = "*" if case.method == "CreateAccount" else ACCOUNT
            token = await world.token(only(needs, account))
            answer = await world.ask(case.method, await world.requests[case](None), token)
            assert not answer.refused, (case, answer)


async def test_who_may_do_it_elsewhere_may_not_do_it_here(world: World) -> None:
    for case in cases(world.service):
        needs = case.needs(world.service)
        token = await world.token(only(needs, "elsewhere"))
        answer = await world.ask(case.method, await world.requests[case](None), token)
        if needs[0].found is Found.LISTED:
            # What is not covered is not shown; a watch has nothing to send but progress.
            assert answer.code == "OK", (case, answer)
            assert ACCOUNT not in str(answer.response), case
        elif needs[0].found is Found.RESOURCE:
            kind = RESOURCES[needs[0].resource]
            assert answer.code == "NOT_FOUND", (case, answer)
            assert kind.noun in answer.message
        else:
            assert answer.code == "PERMISSION_DENIED", (case, answer)


async def test_what_others_have_is_answered_as_what_does_not_exist(world: World) -> None:
    compared = 0
    for case in cases(world.service):
        if not named(case, world.service):
            continue
        needs = case.needs(world.service)
        # Whoever may create in the account, but does not reach what the request refers to.
        grants: list[Any] = [
            grant(
                need.resource,
                need.function,
                ACCOUNT if need.found is Found.ACCOUNT else "elsewhere",
            )
            for need in needs
        ]
        for tokens in (grants, [*grants, grant("*", "*", "elsewhere")]):
            token = await world.token(tokens)
            foreign = await world.ask(case.method, await world.requests[case](None), token)
            unknown = await world.ask(case.method, await world.requests[case](UNKNOWN), token)
            assert foreign == unknown, case
            assert foreign.code == "NOT_FOUND", (case, foreign)
            resource = next(n for n in needs if n.found is Found.RESOURCE)
            told = info_of(foreign)
            assert told.pop("reason").endswith("_NOT_FOUND"), case
            assert told == missing(resource), case
        # Who lacks the function altogether learns no more.
        token = await world.token(all_but(next(n for n in needs if n.found is Found.RESOURCE)))
        foreign = await world.ask(case.method, await world.requests[case](None), token)
        unknown = await world.ask(case.method, await world.requests[case](UNKNOWN), token)
        assert foreign == unknown, case
        compared += 1
    assert compared >= 10
    # Whoever reaches everything is told what there is not.
    reaches = await world.token([grant("*", "*", "*")])
    case = next(
        c for c in cases(world.service) if c.method.startswith("Get") and named(c, world.service)
    )
    answer = await world.ask(case.method, await world.requests[case](UNKNOWN), reaches)
    assert answer.code == "NOT_FOUND"
    assert "function" not in info_of(answer)


async def test_single_resources_can_be_granted(world: World) -> None:
    for case in cases(world.service):
        needs = case.needs(world.service)
        if len(needs) > 1 or needs[0].found is not Found.RESOURCE:
            continue
        request = await world.requests[case](None)
        name = request.header.id if hasattr(request, "header") else request.id
        token = await world.token([grant(needs[0].resource, needs[0].function, "", name)])
        answer = await world.ask(case.method, request, token)
        assert answer.code not in {"NOT_FOUND", "PERMISSION_DENIED"} or "file" in answer.message, (
            case,
            answer,
        )
        other = await world.ask(case.method, await world.requests[case](None), token)
        assert other.code == "NOT_FOUND", (case, other)


async def test_services_only_is_for_services_only(world: World) -> None:
    everything = await world.token([grant("*", "*", "*", "*")])
    found = [
        name.rpartition("/")[2]
        for name, rule in RULES.items()
        if f".{world.service}/" in name and rule.who is Who.SERVICES
    ]
    assert found
    for method in found:
        answer = await world.ask(method, world.empty(method), everything)
        assert answer.code == "PERMISSION_DENIED", (method, answer)
        assert "service token" in answer.message
        answer = await world.ask(method, world.empty(method), world.service_token)
        if answer.code == "INVALID_ARGUMENT":
            # It was let in, and looked at.
            assert info_of(answer)["reason"] == "INVALID_REQUEST", (method, answer)
        else:
            assert answer.code == "OK", (method, answer)


async def test_no_rpc_answers_without_a_token(world: World) -> None:
    for name in RULES:
        if f".{world.service}/" in name:
            method = name.rpartition("/")[2]
            answer = await world.ask(method, world.empty(method), "nonsense")
            assert answer.code == "UNAUTHENTICATED", (method, answer)
            assert info_of(answer)["reason"] == "TOKEN_INVALID"


async def test_any_token_is_enough_where_the_table_says_so(world: World) -> None:
    lean = await world.token([grant("nodes", "query", "", "none")])
    for name, rule in RULES.items():
        if f".{world.service}/" in name and rule.who is Who.ANY_TOKEN:
            method = name.rpartition("/")[2]
            assert (await world.ask(method, world.empty(method), lean)).code == "OK", method


def test_cases_have_names_of_their_own() -> None:
    names = [str(case) for service in WORLDS for case in cases(service)]
    assert len(set(names)) == len(names)
    assert str(Case("ExplainPlacement", 1)) in names
