"""What lists and watches select by: the keywords of `query`, `pages` and `watch`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

__all__ = ["ListFilter", "ModelFilter", "ServiceFilter", "SessionFilter", "query_arguments"]

Query = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]


class ListFilter(TypedDict, total=False):
    """What all kinds have. Everything that is given must hold.

    Attributes:
        query: An object, a list of objects that must all hold, or the JSON text of either; a list
            as value means "one of".
        id: Equal to the id.
        account: Equal to the account.
        status: Equal to the status.
        reason: Equal to the reason.
        labels: Labels that must be there with these values.
        name: Equal to the name. A session has none, so none matches.
        order: The direction.
        orderBy: "creationTime" (unless given), "name", "status" or "id".
        limit: The most resources to return, at least 1.
        after: Where the list begins: after the resource with this value of the `orderBy` field and
            this id, as a pair or its JSON text. Needs `orderBy`.
    """

    query: Query
    id: str
    account: str
    status: str
    reason: str
    labels: Mapping[str, str]
    name: str
    order: Literal["ascending", "descending"]
    orderBy: str
    limit: int
    after: str | Sequence[str]


class ModelFilter(ListFilter, total=False):
    """What models are selected by."""


class ServiceFilter(ListFilter, total=False):
    """What inference services are selected by.

    Attributes:
        model: Equal to the id of the model.
        modelName: Equal to the name of the model.
    """

    model: str
    modelName: str


class SessionFilter(ListFilter, total=False):
    """What sessions are selected by.

    Attributes:
        inferenceService: Equal to the id of the service.
        inferenceServiceName: Equal to the name of the service.
        model: Equal to the id of the model.
        modelName: Equal to the name of the model.
    """

    inferenceService: str
    inferenceServiceName: str
    model: str
    modelName: str


def query_arguments(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a query request: objects and lists as JSON text, no nulls."""
    arguments = {key: value for key, value in filters.items() if value is not None}
    for key in ("query", "labels", "after"):
        if key in arguments and not isinstance(arguments[key], str):
            arguments[key] = json.dumps(arguments[key], ensure_ascii=False)
    return arguments
