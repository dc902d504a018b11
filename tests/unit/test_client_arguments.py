"""Arguments that cannot be sent are refused by name, before anything is."""

from __future__ import annotations

from typing import Any

import pytest

from podbay import Client
from podbay.errors import InvalidRequestError
from podbay.types import Grant

NOT_TEXT: list[Any] = [None, 3, b"x", "\ud800", ["x"]]


@pytest.fixture(scope="module")
def client() -> Client:
    return Client("127.0.0.1:9", "t", timeout=5)


@pytest.mark.parametrize("value", NOT_TEXT)
@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda c, v: c.models.get(v), "id"),
        (lambda c, v: c.models.delete(v), "id"),
        (lambda c, v: c.models.label(v, {"a": "1"}), "id"),
        (lambda c, v: c.inferenceservices.documentation(v), "id"),
        (lambda c, v: c.inferenceservices.edit_documentation(v, {"documentation": {}}), "id"),
        (lambda c, v: c.inferencesessions.terminate(v), "session_id"),
        (lambda c, v: c.inferencesessions.status(v), "session_id"),
        (lambda c, v: c.inferencesessions.token(v), "session_id"),
        (lambda c, v: c.inferencesessions.revoke_tokens(v), "session_id"),
        (lambda c, v: list(c.inferencesessions.watch_status(v)), "session_id"),
        (lambda c, v: list(c.inferencesessions.logs(v)), "session_id"),
        (lambda c, v: c.nodes.get(v), "name"),
        (lambda c, v: c.nodes.cordon(v), "name"),
        (lambda c, v: c.accounts.create(v), "account"),
        (lambda c, v: c.tokens.create(v), "account"),
        (lambda c, v: c.tokens.create("a", grants=[Grant((v,), ())]), "grants.resources"),
        (lambda c, v: c.tokens.revoke(v), "token_id"),
    ],
)
def test_a_text_is_one_that_can_be_sent(client: Client, call: Any, field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        call(client, value)
    assert caught.value.violations[0][0] == field


@pytest.mark.parametrize("value", ["\ud800", 3])
def test_an_endpoint_that_cannot_be_sent_breaks_no_stream(client: Client, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="endpoint"):
        client.inferencesessions.client("s", "t", endpoint=value)


@pytest.mark.parametrize("value", [-1, 2**63, "1", None, 1.5])
def test_a_revision_is_one_that_can_be_sent(client: Client, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="after_revision"):
        next(client.models.watch(after_revision=value))


@pytest.mark.parametrize("labels", [3, "x", ["a"], {"a": 1}, {1: "a"}])
def test_labels_are_a_mapping_of_texts(client: Client, labels: Any) -> None:
    with pytest.raises(InvalidRequestError, match="labels"):
        client.models.label("x", labels)
