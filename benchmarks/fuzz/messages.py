"""Random and boundary messages of any type, from its descriptor alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

__all__ = ["broken_bytes", "changed_message", "random_message"]

_DEPTH = 6
_TEXTS = (
    *("", "*", "admin", "0.1", "mock", "container", "GPU", "x\n", "\0", "a/b", "../../etc/passwd"),
    *(
        "creationTime",
        "name",
        "labels.x",
        "\u202e",
        "9" * 400,
        "1Gi",
        "-1",
        "é" * 300,
        "x" * 70_000,
    ),
    *(
        "{}",
        "[]",
        "[{}]",
        '{"status": "\\ud800"}',
        '{"a": 1e999}',
        "NaN",
        "[" * 2000,
        '{"a":' * 900,
    ),
    *("podbay.local.mocks.Echo", "TransformJSON", "title", "PORT", "runner.args", "sha256:0"),
    *("a\r\nX-Injected: 1", "%00", "$.a[*]..b", "0" * 32, "echo"),
)
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_FIXED64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
}
_FLOATS = (0.0, -1.0, 0.5, 1e308, -1e308, float("inf"), float("nan"), 5e-324)
_FLOAT_TYPES = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)


def random_message(
    descriptor: Descriptor, rng: random.Random, known: Sequence[str] = (), depth: int = 0
) -> Message:
    """Make a message of a type.

    Args:
        descriptor: The type.
        rng: Where chance comes from.
        known: Ids of what exists, for fields that hold text.
        depth: How deep the message lies in another.
    """
    message = message_factory.GetMessageClass(descriptor)()
    # Most fields of outer messages are set, or nearly all requests would end early.
    share = 0.75 if depth < 3 else 0.3
    for field in descriptor.fields:
        if rng.random() > share:
            continue
        inner = field.message_type
        if inner is None:
            _set_plain(message, field, rng, known)
        elif depth >= _DEPTH:
            continue
        elif inner.GetOptions().map_entry:
            _set_map(message, field, rng, known, depth)
        elif field.is_repeated:
            for _ in range(rng.choice((0, 1, 1, 2, 40 if depth < 2 else 3))):
                getattr(message, field.name).append(random_message(inner, rng, known, depth + 1))
        else:
            getattr(message, field.name).CopyFrom(random_message(inner, rng, known, depth + 1))
    return message


def changed_message(
    descriptor: Descriptor, wire: bytes, rng: random.Random, known: Sequence[str] = ()
) -> Message:
    """Return a message that would pass, but for one or two of its fields.

    Args:
        descriptor: The type.
        wire: The message that would pass.
        rng: Where chance comes from.
        known: Ids of what exists.
    """
    message = message_factory.GetMessageClass(descriptor)()
    message.ParseFromString(wire)
    for _ in range(rng.choice((0, 1, 1, 2))):
        _change(message, rng, known)
    return message


def _change(message: Message, rng: random.Random, known: Sequence[str]) -> None:
    """Change a field somewhere in a message."""
    field: FieldDescriptor = rng.choice([*message.DESCRIPTOR.fields])
    inner = field.message_type
    if inner is None:
        message.ClearField(field.name)
        _set_plain(message, field, rng, known)
    elif inner.GetOptions().map_entry:
        _set_map(message, field, rng, known, 1)
    elif field.is_repeated:
        getattr(message, field.name).append(random_message(inner, rng, known, 2))
    elif message.HasField(field.name) and rng.random() < 0.8:
        _change(getattr(message, field.name), rng, known)
    else:
        getattr(message, field.name).CopyFrom(random_message(inner, rng, known, 2))


def broken_bytes(message: Message, rng: random.Random) -> bytes:
    """Return bytes that are nearly a message: cut, changed, or with something in front."""
    wire = bytearray(message.SerializePartialToString())
    kind = rng.randrange(4)
    if kind == 0 or not wire:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return bytes(wire[: rng.randrange(len(wire))])
    if kind == 2:
        for _ in range(rng.randrange(1, 8)):
            wire[rng.randrange(len(wire))] = rng.randrange(256)
        return bytes(wire)
    # A group nested deeper than any parser follows, or fields that nobody knows.
    return b"\x0b" * 3000 if rng.random() < 0.5 else b"\xfa\xff\x07\x03abc" + bytes(wire)


def _plain(field: FieldDescriptor, rng: random.Random, known: Sequence[str]) -> Any:
    kind = field.type
    if kind == FieldDescriptor.TYPE_STRING:
        if known and rng.random() < 0.4:
            return rng.choice(known)
        return rng.choice(_TEXTS)
    if kind == FieldDescriptor.TYPE_BYTES:
        return rng.choice((b"", b"{}", b"null", b"[" * 5000, b"\xff\xfe", rng.randbytes(40)))
    if kind == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    if kind in _FLOAT_TYPES:
        return rng.choice(_FLOATS)
    low, high = _INTEGERS[kind]
    return rng.choice((low, high, 0, 1, 2, max(low, -1), rng.randint(low, high)))


def _set_plain(
    message: Message, field: FieldDescriptor, rng: random.Random, known: Sequence[str]
) -> None:
    if field.is_repeated:
        count = rng.choice((0, 1, 2, 300))
        getattr(message, field.name).extend(_plain(field, rng, known) for _ in range(count))
    else:
        setattr(message, field.name, _plain(field, rng, known))


def _set_map(
    message: Message,
    field: FieldDescriptor,
    rng: random.Random,
    known: Sequence[str],
    depth: int,
) -> None:
    entry: Any = field.message_type
    value = entry.fields_by_name["value"]
    for _ in range(rng.choice((0, 1, 3))):
        key = rng.choice(_TEXTS)
        if value.message_type is None:
            getattr(message, field.name)[key] = _plain(value, rng, known)
        else:
            made = random_message(value.message_type, rng, known, depth + 1)
            getattr(message, field.name)[key].CopyFrom(made)
