"""Page tokens of lists. Pure.

A page token holds where the page before ended (keyset paging: the value that the list is ordered
by, and the id), so that pages stay right while resources come and go. It also holds a digest of
what was listed, so that a token of another list is refused instead of giving nonsense.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from podbay.v1 import common_pb2, errors_pb2
from podbay_kit.errors import ServiceError, invalid
from podbay_kit.resource_times import text_time

__all__ = ["DEFAULT_PAGE_SIZE", "MAX_PAGE_SIZE", "PageQuery", "Position", "page_query"]

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000

_MAX_TOKEN: Final = 8192
_MAX_REVISION: Final = 2**63 - 1


@dataclass(frozen=True)
class Position:
    """Where a page ended.

    Args:
        value: The value of the last item that the list is ordered by.
        id: The id of the last item.
        revision: The revision that the first page showed. All pages of a list tell this one: a
            watch from there misses nothing of any page.
    """

    value: str
    id: str
    revision: int


@dataclass(frozen=True)
class PageQuery:
    """Which page of a list.

    Args:
        size: The most items to return.
        token: The token of the page; empty for the first.
        order_by: The field to order by.
        descending: Whether the largest comes first.
        after: The value and the id after which the list begins; None for the beginning.
    """

    size: int = DEFAULT_PAGE_SIZE
    token: str = ""
    order_by: str = "creationTime"
    descending: bool = False
    after: tuple[str, str] | None = None

    def start(self, listed: str, revision: int = 0) -> Position | None:
        """Return where the page begins: after this position; None for the beginning.

        Args:
            listed: A text that says what is listed, as the kind and the filter.
            revision: What the position tells where it is not that of an earlier page.

        Raises:
            ServiceError: INVALID_PAGE_TOKEN.
        """
        if not self.token:
            return None if self.after is None else Position(*self.after, revision)
        try:
            if len(self.token) > _MAX_TOKEN:
                raise _bad_token()
            padded = self.token + "=" * (-len(self.token) % 4)
            value, item, revision, digest = json.loads(
                base64.b64decode(padded, altchars=b"-_", validate=True)
            )
        except (binascii.Error, ValueError, TypeError, RecursionError) as error:
            raise _bad_token() from error
        if not (isinstance(value, str) and isinstance(item, str) and type(revision) is int):
            raise _bad_token()
        if digest != self._digest(listed) or not 0 <= revision <= _MAX_REVISION:
            raise _bad_token()
        return Position(value, item, revision)

    def next_token(self, listed: str, position: Position) -> str:
        """Return the token of the page that begins after a position."""
        text = json.dumps(
            [position.value, position.id, position.revision, self._digest(listed)],
            separators=(",", ":"),
        )
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _digest(self, listed: str) -> str:
        text = json.dumps([listed, self.order_by, self.descending])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def page_query(
    message: common_pb2.PageRequest,
    *,
    orders: Collection[str] = ("creationTime", "name", "status", "id"),
    path: str = "page",
) -> PageQuery:
    """Read a page request.

    Args:
        message: The request.
        orders: The fields that the list can be ordered by; the first is the default.
        path: The path of the message in the request, for errors.

    Raises:
        ServiceError: INVALID_REQUEST.
    """
    if not 0 <= message.page_size <= MAX_PAGE_SIZE:
        raise invalid(
            f"{path}.pageSize", f"must be 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}"
        )
    order_by = message.order_by if message.HasField("order_by") else next(iter(orders))
    if order_by not in orders:
        raise invalid(f"{path}.orderBy", f"must be one of {', '.join(orders)}")
    if message.order not in common_pb2.SortOrder.values():
        raise invalid(f"{path}.order", "must be SORT_ORDER_ASCENDING or SORT_ORDER_DESCENDING")
    return PageQuery(
        size=message.page_size or DEFAULT_PAGE_SIZE,
        token=message.page_token,
        order_by=order_by,
        descending=message.order == common_pb2.SORT_ORDER_DESCENDING,
        after=_after(message, path) if message.HasField("after") else None,
    )


def _after(message: common_pb2.PageRequest, path: str) -> tuple[str, str]:
    if not message.HasField("order_by"):
        raise invalid(f"{path}.after", f"needs {path}.orderBy: its value is one of that field")
    if message.page_token:
        raise invalid(f"{path}.after", f"does not go with {path}.pageToken: give one of them")
    value = message.after.value
    if message.order_by == "creationTime":
        try:
            time = datetime.fromisoformat(value)
            value = text_time(time if time.tzinfo else time.replace(tzinfo=UTC))
        except (ValueError, OverflowError) as error:
            raise invalid(
                f"{path}.after.value", "must be a time, as 2030-01-01T00:00:00Z"
            ) from error
    return value, message.after.id


def _bad_token() -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_INVALID_PAGE_TOKEN,
        "The page token is not one of this list: it is damaged, or comes from a list with another "
        "filter or order. List again without a page token.",
        violations=[("page.pageToken", "is not a token of this list")],
    )
