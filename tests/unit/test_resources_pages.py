from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podbay.v1 import common_pb2, errors_pb2
from podbay_kit.errors import ServiceError
from podbay_kit.resource_pages import PageQuery, Position, page_query


def test_a_token_gives_its_position_back() -> None:
    position = Position("2030", "id", 7)
    token = PageQuery().next_token("ships", position)
    assert PageQuery(token=token).start("ships") == position
    assert PageQuery().start("ships") is None


@pytest.mark.parametrize(
    "page",
    [PageQuery(order_by="name"), PageQuery(descending=True)],
)
def test_a_token_of_another_order_is_refused(page: PageQuery) -> None:
    token = PageQuery().next_token("ships", Position("2030", "id", 7))
    with pytest.raises(ServiceError) as caught:
        PageQuery(token=token, order_by=page.order_by, descending=page.descending).start("ships")
    assert caught.value.reason == errors_pb2.ERROR_REASON_INVALID_PAGE_TOKEN


def test_a_token_of_another_list_is_refused() -> None:
    token = PageQuery().next_token("ships", Position("2030", "id", 7))
    with pytest.raises(ServiceError):
        PageQuery(token=token).start("boats")


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "ä",
        "\ud800",
        "a" * 10_000,
        _encoded(1),
        _encoded([]),
        _encoded(["a", "b", "c", "d"]),
        _encoded(["a", "b", True, "d"]),
        _encoded({"a": 1, "b": 2, "c": 3, "d": 4}),
        base64.urlsafe_b64encode(b"[" * 5000).decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
def test_other_tokens_are_refused(token: str) -> None:
    with pytest.raises(ServiceError) as caught:
        PageQuery(token=token).start("ships")
    assert caught.value.reason == errors_pb2.ERROR_REASON_INVALID_PAGE_TOKEN


@given(st.text(min_size=1) | st.binary(min_size=1).map(lambda b: base64.b64encode(b).decode()))
def test_any_other_text_is_refused(token: str) -> None:
    with pytest.raises(ServiceError):
        PageQuery(token=token).start("ships")


AFTER = common_pb2.PagePosition(value="b", id="i")


def test_page_requests() -> None:
    asked = common_pb2.PageRequest(
        page_size=7, order_by="name", order=common_pb2.SORT_ORDER_DESCENDING
    )
    assert page_query(asked) == PageQuery(7, "", "name", descending=True)
    assert page_query(common_pb2.PageRequest()) == PageQuery(100, "", "creationTime")


def test_a_page_begins_after_a_position() -> None:
    after = common_pb2.PagePosition(value="b", id="i")
    page = page_query(common_pb2.PageRequest(order_by="name", after=after))
    assert page.start("ships", 7) == Position("b", "i", 7)
    # Stored times have a fixed length; the JSON interface leaves a fraction of zero out.
    for text in ("2030-01-01T00:00:00Z", "2030-01-01T01:00:00+01:00", "2030-01-01T00:00:00"):
        after.value = text
        page = page_query(common_pb2.PageRequest(order_by="creationTime", after=after))
        assert page.after == ("2030-01-01T00:00:00.000000Z", "i")


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (common_pb2.PageRequest(page_size=-1), "page.pageSize"),
        (common_pb2.PageRequest(page_size=1001), "page.pageSize"),
        (common_pb2.PageRequest(order_by=""), "page.orderBy"),
        (common_pb2.PageRequest(order_by="account"), "page.orderBy"),
        (common_pb2.PageRequest(after=AFTER), "page.after"),
        (common_pb2.PageRequest(after=AFTER, order_by="id", page_token="t"), "page.after"),
        (common_pb2.PageRequest(after=AFTER, order_by="creationTime"), "page.after.value"),
        (common_pb2.PageRequest(order=17), "page.order"),  # type: ignore[arg-type] # proto3 takes any number
    ],
)
def test_bad_page_requests(asked: common_pb2.PageRequest, path: str) -> None:
    with pytest.raises(ServiceError) as caught:
        page_query(asked)
    assert caught.value.violations[0][0] == path
