"""Between the models of the client and plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from podbay._core.foreign import plain_form
from podbay._core.resource_ops import read
from podbay._core.wire_errors import invalid
from podbay.schema.requests import LabelsEditRequest

__all__ = ["labels_of", "plain", "query_members"]


def plain(value: Any) -> Any:
    """Return the JSON form of a model, or of a list of them."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.model_dump(mode="json") if isinstance(value, pydantic.BaseModel) else value


def labels_of(body: Any) -> dict[str, str | None]:
    """Return the change of labels of a request's JSON form.

    Raises:
        InvalidRequestError: It breaks a rule.
    """
    return read(LabelsEditRequest, body, "The change of labels").labels


def query_members(request: Any) -> dict[str, Any]:
    """Return the members of a query request, as keywords of `query`.

    Args:
        request: A query request of ours or of another package, its JSON form, or None.

    Raises:
        InvalidRequestError: It has no such form.
    """
    members = plain(plain_form(request, "The query")) if request is not None else {}
    if not isinstance(members, Mapping) or not all(isinstance(key, str) for key in members):
        raise invalid("request", "must be a query request, or its JSON form", "The query")
    return dict(members)
