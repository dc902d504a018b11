"""How single fields of a message are written and read, by the kind of field.

Each function here makes a pair: one that writes a model's value into a message and returns the
paths of lists within it that are set and empty, and one that returns what the message holds in
the form that the model reads.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pydantic import BaseModel

from podbay.schema._wire_values import (
    WireError,
    copied,
    read_duration,
    read_json,
    read_time,
    write_duration,
    write_json,
    write_time,
)

__all__ = [
    "Empty",
    "NestedPlan",
    "Read",
    "Write",
    "is_time",
    "json_functions",
    "list_functions",
    "map_functions",
    "message_functions",
    "scalar_functions",
    "series_functions",
    "time_functions",
]

Empty = list[list[str]]
"""Paths of lists that are set and empty."""

Write = Callable[[Any, Any, bool], Empty | None]
"""Takes the message, the value, and whether only what was set is written."""

Read = Callable[[Any], Any]

_TIMES: dict[str, tuple[Callable[[Any, Any], None], Read]] = {
    "google.protobuf.Timestamp": (write_time, read_time),
    "google.protobuf.Duration": (write_duration, read_duration),
}


class NestedPlan(Protocol):
    """How the messages within a field are converted."""

    def write(self, model: BaseModel, message: Any, only_set: bool) -> Empty:
        """Writes a model into a message."""

    def read(self, message: Any) -> dict[str, Any]:
        """Returns what a message holds."""


def _put(setter: Callable[..., Any], *arguments: Any) -> None:
    """Calls a setter of a message, and says what is wrong with a value that it refuses."""
    try:
        setter(*arguments)
    except UnicodeEncodeError as error:
        raise WireError("holds characters that are not valid Unicode") from error
    except ValueError as error:
        raise WireError("lies outside the range of the wire's integers") from error


def scalar_functions(wire: FieldDescriptor) -> tuple[Write, Read]:
    """For one text, number or truth value."""
    name = wire.name

    def write_text(message: Any, value: Any, _only_set: bool) -> None:
        # Paths, addresses and members of enumerations are text on the wire.
        _put(setattr, message, name, value if type(value) is str else str(value))

    def write_number(message: Any, value: Any, _only_set: bool) -> None:
        _put(setattr, message, name, value)

    return (write_text if wire.type == wire.TYPE_STRING else write_number), copied


def json_functions(wire: FieldDescriptor) -> tuple[Write, Read]:
    """For a JSON object that travels as its text."""
    name = wire.name

    def write(message: Any, value: Any, _only_set: bool) -> None:
        setattr(message, name, write_json(value))

    return write, read_json


def is_time(message_type: Descriptor) -> bool:
    """Whether a type of message is a time or a duration."""
    return message_type.full_name in _TIMES


def time_functions(wire: FieldDescriptor, message_type: Descriptor) -> tuple[Write, Read]:
    """For a time or a duration."""
    name = wire.name
    write_into, read = _TIMES[message_type.full_name]

    def write(message: Any, value: Any, _only_set: bool) -> None:
        write_into(getattr(message, name), value)

    return write, read


def list_functions(wire: FieldDescriptor) -> tuple[Write, Read]:
    """For a list of texts."""
    name = wire.name

    def write(message: Any, value: list[Any], _only_set: bool) -> None:
        _put(getattr(message, name).extend, value)

    return write, list


def message_functions(wire: FieldDescriptor, plan: NestedPlan) -> tuple[Write, Read]:
    """For one message, or a list of messages."""
    name = wire.name

    def write_one(message: Any, value: BaseModel, only_set: bool) -> Empty:
        target = getattr(message, name)
        target.SetInParent()
        return plan.write(value, target, only_set)

    def write_list(message: Any, value: list[BaseModel], only_set: bool) -> Empty:
        empty: Empty = []
        target = getattr(message, name)
        for index, item in enumerate(value):
            try:
                inner = plan.write(item, target.add(), only_set)
            except WireError as error:
                error.path.insert(0, index)
                raise
            empty.extend([str(index), *path] for path in inner)
        return empty

    def read_list(value: Iterable[Any]) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = []
        for item in value:
            try:
                result.append(plan.read(item))
            except WireError as error:
                error.path.insert(0, len(result))
                raise
        return result

    return (write_list, read_list) if wire.is_repeated else (write_one, plan.read)


def map_functions(wire: FieldDescriptor) -> tuple[Write, Read]:
    """For a map of texts."""
    name = wire.name

    def write(message: Any, value: Mapping[str, str], _only_set: bool) -> None:
        _put(getattr(message, name).update, value)

    def read(value: Mapping[str, str]) -> dict[str, str]:
        # Maps have no order on the wire; what is read is the same every time.
        return dict(sorted(value.items()))

    return write, read


def series_functions(
    wire: FieldDescriptor, list_field: FieldDescriptor, plan: NestedPlan
) -> tuple[Write, Read]:
    """For a map of lists, whose values on the wire are messages with one list."""
    name, list_name = wire.name, list_field.name
    write_items, read_items = message_functions(list_field, plan)

    def write(message: Any, value: Mapping[str, list[Any]], only_set: bool) -> None:
        target = getattr(message, name)
        for key, items in value.items():
            try:
                # Looking a key up puts it into the map.
                _put(target.__getitem__, key)
                write_items(target[key], items, only_set)
            except WireError as error:
                error.path.insert(0, key)
                raise

    def read(value: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, series in sorted(value.items()):
            try:
                result[key] = read_items(getattr(series, list_name))
            except WireError as error:
                error.path.insert(0, key)
                raise
        return result

    return write, read
