"""The table of what each RPC needs, the protos' comments, and the decisions by it."""

from __future__ import annotations

import re

import pytest

from podbay.v1 import errors_pb2
from podbay_kit.access import Access
from podbay_kit.auth import Grant, Principal
from podbay_kit.errors import ServiceError
from podbay_kit.rpc_rules import FUNCTIONS, RESOURCES, RULES, Found, Need, Rule, Who
from tests.support.proto_comments import rpc_comments

_GRANT = re.compile(r"Grant: ([^.]*)\.")


def test_every_rpc_has_a_rule_and_there_are_no_others() -> None:
    assert set(RULES) == set(rpc_comments())


@pytest.mark.parametrize("name", sorted(rpc_comments()))
def test_the_comment_of_an_rpc_ends_with_its_rule(name: str) -> None:
    comment = rpc_comments()[name]
    assert _GRANT.findall(comment) == [str(RULES[name])], comment
    assert comment.endswith(f"Grant: {RULES[name]}.")


def test_rules_speak_of_known_resources_and_functions() -> None:
    for name, rule in RULES.items():
        assert (rule.who is Who.GRANTED) == bool(rule.ways), name
        assert all(rule.ways), name
        for need in rule.needs():
            assert need.resource in RESOURCES, name
            assert need.function in FUNCTIONS, name
            if need.found is Found.RESOURCE:
                assert RESOURCES[need.resource].not_found, name


def grant(resources: str = "*", functions: str = "*", accounts: str = "", ids: str = "") -> Grant:
    return Grant(*(frozenset(text.split()) for text in (resources, functions, accounts, ids)))


def access(rule: Rule, *grants: Grant, service: bool = False) -> Access:
    return Access(rule, Principal("acme", "t", grants, service=service))


def refusal(work: object) -> ServiceError:
    assert callable(work)
    with pytest.raises(ServiceError) as caught:
        work()
    return caught.value


GET = Rule(Who.GRANTED, ((Need("get", "models", Found.RESOURCE),),))
CREATE = Rule(Who.GRANTED, ((Need("create", "models", Found.ACCOUNT),),))
NODE = Rule(Who.GRANTED, ((Need("edit", "nodes", Found.INSTALLATION),),))
LIST = Rule(Who.GRANTED, ((Need("query", "models", Found.LISTED),),))
DENIED = errors_pb2.ERROR_REASON_PERMISSION_DENIED
NOT_FOUND = errors_pb2.ERROR_REASON_MODEL_NOT_FOUND


def test_who_lacks_the_function_is_refused_before_anything_is_looked_at() -> None:
    error = refusal(access(GET, grant("models", "query", "*")).begin)
    assert error.reason == DENIED
    assert "needs 'get' on 'models'" in error.message
    assert dict(error.metadata) == {"resource": "models", "function": "get"}


def test_what_others_have_is_answered_as_what_does_not_exist() -> None:
    asked = access(GET, grant("models", "get", "acme"))
    asked.begin()
    asked.permit("models", "acme", "m1")
    foreign = refusal(lambda: asked.permit("models", "other", "m2"))
    unknown = asked.answer(ServiceError(NOT_FOUND, "There is no model m2.", metadata={"id": "m2"}))
    assert foreign.reason == NOT_FOUND
    assert foreign.to_status() == unknown.to_status()
    assert "'get' on 'models'" in foreign.message


def test_who_reaches_everything_is_told_what_does_not_exist() -> None:
    unknown = ServiceError(NOT_FOUND, "There is no model m2.")
    for grants in ((grant("*", "*", "*"),), (grant("models", "get", "", "*"),)):
        assert access(GET, *grants).answer(unknown) is unknown
    assert access(GET, service=True).answer(unknown) is unknown
    other = ServiceError(errors_pb2.ERROR_REASON_MODEL_FILE_NOT_FOUND, "No such file.")
    assert access(GET, grant("models", "get", "acme")).answer(other) is other


def test_an_account_is_covered_or_not() -> None:
    asked = access(CREATE, grant("models", "create", "acme", "m1"))
    asked.permit_account("acme")
    assert refusal(lambda: asked.permit_account("other")).reason == DENIED
    # Single resources are no account.
    only = access(CREATE, grant("models", "create", "", "*"))
    assert refusal(lambda: only.permit_account("acme")).reason == DENIED


def test_no_account_reaches_the_installation() -> None:
    assert refusal(access(NODE, grant("*", "*", "acme")).begin).reason == DENIED
    one = access(NODE, grant("nodes", "edit", "", "n1"))
    one.begin()
    one.permit_installation("n1")
    assert refusal(lambda: one.permit_installation("n2")).reason == DENIED
    assert refusal(one.permit_installation).reason == DENIED
    access(NODE, grant("nodes", "*", "*")).permit_installation("n2")


def test_a_list_shows_what_the_grants_reach() -> None:
    scope = access(LIST, grant("models", "query", "acme", "m9")).scope()
    assert (scope.accounts, scope.entities) == ({"acme"}, {"m9"})
    assert access(LIST, service=True).scope().everything


def test_one_way_is_enough() -> None:
    rule = RULES["/podbay.v1.SessionManagerService/ExplainPlacement"]
    access(rule, grant("inferencesessions", "get", "acme")).begin()
    both = grant("inferencesessions inferenceservices", "create consume", "acme")
    access(rule, both).begin()
    half = refusal(access(rule, grant("inferencesessions", "create", "acme")).begin)
    assert dict(half.metadata) == {"resource": "inferencesessions", "function": "get"}


def test_services_only_is_for_services_only() -> None:
    rule = Rule(Who.SERVICES)
    access(rule, service=True).begin()
    assert refusal(access(rule, grant("*", "*", "*", "*")).begin).reason == DENIED


def test_what_the_table_does_not_say_is_no_answer() -> None:
    with pytest.raises(LookupError):
        access(GET, grant("*", "*", "*")).permit_account("acme")
    asked = access(GET, grant("*", "*", "*"))
    assert not asked.decided
    asked.permit("models", "acme", "m1")
    assert asked.decided
