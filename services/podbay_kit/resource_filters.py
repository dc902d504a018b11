"""Which resources a list or a watch selects. Pure: no database, no clock.

A filter is compiled against a kind of resource into conditions. Conditions on fields that the
store keeps in columns become SQL there; conditions on dotted paths, and every condition of a
watch, are evaluated here on the resource's JSON document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pydantic

from podbay.schema.requests import LabelsEditRequest
from podbay_kit.auth import Scope
from podbay_kit.errors import from_validation_error, invalid
from podbay_kit.resource_kinds import (
    MODEL_FIELDS,
    SERVICE_FIELDS,
    SESSION_FIELDS,
    ResourceKind,
)

__all__ = [
    "MODEL_FIELDS",
    "SERVICE_FIELDS",
    "SESSION_FIELDS",
    "CompiledFilter",
    "Condition",
    "Document",
    "ResourceFilter",
    "ResourceKind",
    "Scalar",
    "compile_filter",
    "lookup",
]

Document = Mapping[str, Any]
"""A resource as the JSON interface writes it."""

Scalar = str | int | float | bool | None
"""A value that a condition compares with."""

# SQLite limits the number of values and the depth of one statement; a filter stays far below.
_MAX_QUERY_CHARACTERS: Final = 64 * 1024
_MAX_CONDITIONS: Final = 100
_MAX_VALUES: Final = 1000
_MAX_PATH: Final = 16


@dataclass(frozen=True)
class ResourceFilter:
    """Selects resources; everything that is set must hold. See `ResourceFilter` of the protos."""

    id: str | None = None
    account: str | None = None
    status: str | None = None
    reason: str | None = None
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    model_name: str | None = None
    inference_service: str | None = None
    inference_service_name: str | None = None
    query: str | None = None

    def scalars(self) -> Iterator[tuple[str, str]]:
        """Yield the scalar fields that are set, by their names in the JSON form."""
        for key, value in (
            ("id", self.id),
            ("account", self.account),
            ("status", self.status),
            ("reason", self.reason),
            ("name", self.name),
            ("model", self.model),
            ("modelName", self.model_name),
            ("inferenceService", self.inference_service),
            ("inferenceServiceName", self.inference_service_name),
        ):
            if value is not None:
                yield key, value


@dataclass(frozen=True)
class Condition:
    """One condition: the value at a path is one of some values.

    Args:
        path: The path in the document. A list on the way matches where any element does.
        values: The values, any of which satisfies the condition; None stands for absent or null.
        key: The key of the filter, where the store keeps this field in a column.
    """

    path: tuple[str, ...]
    values: tuple[Scalar, ...]
    key: str | None = None

    def holds(self, document: Document) -> bool:
        """Say whether a document satisfies the condition."""
        found = list(lookup(document, self.path)) or [None]
        return any(_same(value, wanted) for value in found for wanted in self.values)


@dataclass(frozen=True)
class CompiledFilter:
    """A filter that fits a kind of resource."""

    conditions: tuple[Condition, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.conditions or self.labels)

    @property
    def in_columns(self) -> bool:
        """Whether the store's columns decide it all, without the document."""
        return all(condition.key is not None for condition in self.conditions)

    def matches(self, document: Document, scope: Scope) -> bool:
        """Say whether a resource is selected and within what the caller may see."""
        if not scope.includes(document["account"], document["id"]):
            return False
        labels = document.get("labels") or {}
        return all(labels.get(key) == value for key, value in self.labels) and all(
            condition.holds(document) for condition in self.conditions
        )

    def key(self) -> str:
        """Return a text that is equal for equal filters and differs for others."""
        conditions = sorted(
            json.dumps([list(condition.path), list(condition.values)])
            for condition in self.conditions
        )
        return json.dumps([conditions, sorted(self.labels)])


def compile_filter(
    given: ResourceFilter, kind: ResourceKind[Any], *, path: str = "filter"
) -> CompiledFilter:
    """Fit a filter to a kind of resource.

    Args:
        given: The filter.
        kind: The kind whose resources are selected.
        path: The filter's path in the request, for errors.

    Raises:
        ServiceError: INVALID_REQUEST, naming the part that does not fit.
    """
    conditions = [
        _field_condition(key, (value,), kind, f"{path}.{key}") for key, value in given.scalars()
    ]
    if given.query is not None:
        conditions += _query_conditions(given.query, kind, f"{path}.query")
    if len(conditions) + len(given.labels) > _MAX_CONDITIONS:
        raise invalid(path, f"has more than {_MAX_CONDITIONS} conditions")
    if sum(len(condition.values) for condition in conditions) > _MAX_VALUES:
        raise invalid(path, f"compares with more than {_MAX_VALUES} values")
    try:
        LabelsEditRequest(labels=dict(given.labels))
    except pydantic.ValidationError as error:
        raise from_validation_error(error, path) from error
    return CompiledFilter(tuple(conditions), tuple(sorted(given.labels.items())))


def lookup(value: Any, path: Sequence[str]) -> Iterator[Scalar]:
    """Yield the scalars at a path of a JSON value; null and absent members yield nothing.

    A list matches with each of its elements; a step of digits picks one element.
    """
    if isinstance(value, list):
        if path and path[0].isdecimal():
            index = int(path[0]) if len(path[0]) < 10 else len(value)
            if index < len(value):
                yield from lookup(value[index], path[1:])
            return
        for element in value:
            yield from lookup(element, path)
    elif path:
        if isinstance(value, Mapping) and path[0] in value:
            yield from lookup(value[path[0]], path[1:])
    elif value is not None and not isinstance(value, Mapping):
        yield value


def _same(value: Scalar, wanted: Scalar) -> bool:
    """Compare as JSON does: true is not 1, and 1 is 1.0."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return value == wanted


def _query_conditions(text: str, kind: ResourceKind[Any], path: str) -> list[Condition]:
    queries = _parse_query(text, path)
    conditions: list[Condition] = []
    for query in queries:
        if not isinstance(query, dict):
            raise invalid(path, "must be a JSON object or a list of JSON objects")
        for key, value in query.items():
            _check_text(key, path)
            values = tuple(value) if isinstance(value, list) else (value,)
            for each in values:
                _check_scalar(each, key, path)
            conditions.append(_condition(key, values, kind, path))
    return conditions


def _parse_query(text: str, path: str) -> list[Any]:
    if len(text) > _MAX_QUERY_CHARACTERS:
        raise invalid(path, f"is longer than {_MAX_QUERY_CHARACTERS} characters")
    try:
        parsed = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        # ValueError covers text that is not JSON and integers too long to read.
        raise invalid(path, "is not JSON text: an object, or a list of objects") from error
    return parsed if isinstance(parsed, list) else [parsed]


def _refuse_constant(_name: str) -> None:
    raise ValueError("NaN and infinities are not JSON")


def _check_scalar(value: object, key: str, path: str) -> None:
    if isinstance(value, (dict, list)):
        raise invalid(path, f"{_shown_key(key)} must be text, a number, true, false, null, or a "
                      "list of these (one of which must match)")  # fmt: skip
    if isinstance(value, str):
        _check_text(value, path)


def _check_text(text: str, path: str) -> None:
    # JSON escapes can write half of a surrogate pair and NUL; no database stores them.
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise invalid(path, "holds a character that cannot be stored (NUL or a lone surrogate)")


def _condition(
    key: str, values: tuple[Scalar, ...], kind: ResourceKind[Any], path: str
) -> Condition:
    if "." not in key:
        return _field_condition(key, values, kind, path, in_query=True)
    steps = tuple(key.split("."))
    if steps[0] == "labels":
        # A label's key may hold dots itself.
        steps = ("labels", key.partition(".")[2])
    if steps[0] not in kind.members():
        raise invalid(path, f"{_shown_key(key)}: {_plural(kind)} have no field of this path")
    if len(steps) > _MAX_PATH or not all(steps):
        raise invalid(path, f"{_shown_key(key)} is not a dotted path of at most {_MAX_PATH} names")
    return Condition(steps, values)


def _field_condition(
    key: str,
    values: tuple[Scalar, ...],
    kind: ResourceKind[Any],
    path: str,
    *,
    in_query: bool = False,
) -> Condition:
    prefix = f"{_shown_key(key)}: " if in_query else ""
    if key not in kind.fields:
        known = ", ".join(kind.fields)
        raise invalid(
            path,
            f"{prefix}{_plural(kind)} cannot be selected by this; known are {known}, and in a "
            "query dotted paths such as metadata.documentation.title",
        )
    for value in values:
        if value is not None and not isinstance(value, str):
            raise invalid(path, f"{prefix}must be text, null, or a list of these")
        if value is not None:
            _check_text(value, path)
    return Condition(kind.fields[key], values, key=key)


def _plural(kind: ResourceKind[Any]) -> str:
    return f"{kind.label}s"


def _shown_key(key: str) -> str:
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in key[:60])
    return f'"{shown}"'
