"""Conversion between models and messages, driven by the message's descriptor.

For every pair of a model and a message a plan is made once: which field goes where, and how. The
two must have the same fields, by their JSON names. Models are written field by field and read
through pydantic, so that what comes from the wire is held to all rules of the model.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from podbay.schema._wire_fields import (
    Empty,
    Read,
    Write,
    is_time,
    json_functions,
    list_functions,
    map_functions,
    message_functions,
    scalar_functions,
    series_functions,
    time_functions,
)
from podbay.schema._wire_values import WireError

__all__ = ["EXPLICITLY_EMPTY", "Plan", "plan_for", "read_model", "refused", "write_model"]

EXPLICITLY_EMPTY = "explicitlyEmpty"
"""The JSON name of the field that lists the paths of lists that are set and empty."""

_ModelT = TypeVar("_ModelT", bound=BaseModel)


def refused(title: str, path: Iterable[str | int], rule: str) -> ValidationError:
    """Returns the error of one field, in the form in which models refuse.

    Args:
        title: The name of the model.
        path: The steps to the field by JSON names and indexes.
        rule: What is wrong, without the value.
    """
    error = PydanticCustomError("wire", "{rule}", {"rule": rule})
    detail = InitErrorDetails(type=error, loc=tuple(path), input=None)
    return ValidationError.from_exception_data(title, [detail], hide_input=True)


def write_model(model: BaseModel, message: Message, *, only_set: bool) -> None:
    """Writes a model into an empty message.

    Args:
        model: The model.
        message: A new message of the type that belongs to it.
        only_set: Whether fields that were not set explicitly stay away, as in requests.

    Raises:
        pydantic.ValidationError: A value has no form on the wire, as a number that is too large.
    """
    plan = plan_for(type(model), message.DESCRIPTOR)
    try:
        plan.write(model, message, only_set)
    except WireError as error:
        raise refused(type(model).__name__, error.path, error.rule) from error


def read_model(model: type[_ModelT], message: Message) -> _ModelT:
    """Reads a message as a model.

    Raises:
        pydantic.ValidationError: The message breaks a rule of the model.
    """
    plan = plan_for(model, message.DESCRIPTOR)
    try:
        data = plan.read(message)
    except WireError as error:
        raise refused(model.__name__, error.path, error.rule) from error
    return model.model_validate(data)


@dataclass(slots=True, frozen=True)
class FieldPlan:
    """How one field is converted."""

    attribute: str
    alias: str
    is_list: bool
    nullable: bool
    required: bool
    write: Write
    read: Read
    # The plan of the messages within, for a field that holds one or a list of them.
    nested: "Plan | None" = None


class Plan:
    """How models of one type and messages of one type are converted into each other."""

    def __init__(self, model: type[BaseModel], descriptor: Descriptor) -> None:
        """Makes the plan.

        Raises:
            TypeError: The model and the message have not the same fields.
        """
        wire = {field.json_name: field for field in descriptor.fields}
        self.keeps_empty = wire.pop(EXPLICITLY_EMPTY, None) is not None
        own = {info.alias or name: (name, info) for name, info in model.model_fields.items()}
        if wire.keys() != own.keys():
            difference = ", ".join(sorted(wire.keys() ^ own.keys()))
            raise TypeError(f"{model.__name__} and {descriptor.full_name} differ in {difference}")
        self.by_alias = {alias: _plan_field(alias, *own[alias], wire[alias]) for alias in own}
        self._fields = list(self.by_alias.values())
        self._by_number = {wire[alias].number: plan for alias, plan in self.by_alias.items()}
        # proto3 does not send these where they are empty; the model needs them.
        self._zeros = {
            alias: _zero(wire[alias])
            for alias, plan in self.by_alias.items()
            if plan.required and not wire[alias].has_presence
        }

    def write(self, model: BaseModel, message: Any, only_set: bool) -> Empty:
        """Writes a model; returns the paths of lists that are set and empty."""
        empty: Empty = []
        values = model.__dict__
        set_fields = model.model_fields_set
        for field in self._fields:
            value = values[field.attribute]
            if value is None or (only_set and field.attribute not in set_fields):
                continue
            if field.is_list and not value:
                if field.nullable or (only_set and not field.required):
                    empty.append([field.alias])
                continue
            try:
                inner = field.write(message, value, only_set)
            except WireError as error:
                error.path.insert(0, field.alias)
                raise
            for path in inner or ():
                empty.append([field.alias, *path])
        if empty and self.keeps_empty:
            message.explicitly_empty.extend(".".join(path) for path in empty)
            return []
        return empty

    def read(self, message: Any) -> dict[str, Any]:
        """Returns what a message holds in the form that the model reads."""
        data = dict(self._zeros)
        for descriptor, value in message.ListFields():
            field = self._by_number.get(descriptor.number)
            if field is None:
                continue  # explicitly_empty, read below
            try:
                data[field.alias] = field.read(value)
            except WireError as error:
                error.path.insert(0, field.alias)
                raise
        if self.keeps_empty:
            for index, path in enumerate(message.explicitly_empty):
                if not self._restore_empty(data, path.split(".")):
                    raise WireError("names no empty list of this resource", EXPLICITLY_EMPTY, index)
        return data

    def _restore_empty(self, data: dict[str, Any], path: list[str]) -> bool:
        plan: Plan = self
        node: Any = data
        for part in path[:-1]:
            if isinstance(node, list):
                if not (part.isascii() and part.isdigit() and len(part) < 10):
                    return False
                if int(part) >= len(node):
                    return False
                node = node[int(part)]
                continue
            field = plan.by_alias.get(part)
            if field is None or field.nested is None or part not in node:
                return False
            node, plan = node[part], field.nested
        last = plan.by_alias.get(path[-1])
        if last is None or not last.is_list or not isinstance(node, dict) or node.get(path[-1]):
            return False
        node[path[-1]] = []
        return True


@cache
def plan_for(model: type[BaseModel], descriptor: Descriptor) -> Plan:
    """Returns the plan of a pair, made once.

    Raises:
        TypeError: The model and the message have not the same fields.
    """
    return Plan(model, descriptor)


def _zero(field: FieldDescriptor) -> Any:
    if field.is_repeated:
        return {} if _is_map(field) else []
    return field.default_value


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _types_in(annotation: Any) -> list[Any]:
    """Returns all types that an annotation is made of, the outer ones first."""
    origin = get_origin(annotation)
    inner = [kind for part in get_args(annotation) for kind in _types_in(part)]
    return [origin or annotation, *inner]


def _plan_field(alias: str, attribute: str, info: FieldInfo, wire: FieldDescriptor) -> FieldPlan:
    kinds = _types_in(info.annotation)
    nested = None
    if wire.message_type is not None and not _is_map(wire) and not is_time(wire.message_type):
        nested = plan_for(_model_in(kinds), wire.message_type)
    write, read = _functions(kinds, wire, nested)
    return FieldPlan(
        attribute=attribute,
        alias=alias,
        is_list=bool(wire.is_repeated) and not _is_map(wire),
        nullable=type(None) in kinds,
        required=info.is_required(),
        write=write,
        read=read,
        nested=nested,
    )


def _model_in(kinds: list[Any]) -> type[BaseModel]:
    return next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))


def _functions(kinds: list[Any], wire: FieldDescriptor, nested: Plan | None) -> tuple[Write, Read]:
    if nested is not None:
        return message_functions(wire, nested)
    if wire.message_type is None:
        if wire.is_repeated:
            return list_functions(wire)
        return json_functions(wire) if dict in kinds else scalar_functions(wire)
    if not _is_map(wire):
        return time_functions(wire, wire.message_type)
    series = wire.message_type.fields_by_name["value"].message_type
    if series is None:
        return map_functions(wire)
    (list_field,) = series.fields
    if list_field.message_type is None:
        raise TypeError(f"{wire.full_name} is a map of lists of plain values")
    return series_functions(wire, list_field, plan_for(_model_in(kinds), list_field.message_type))
