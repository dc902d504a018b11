"""Arrow schemas in their serialized form, without an Arrow library.

The bytes are those that Arrow's own writer makes, so that schemas can be compared as text.
"""

import struct
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from podbay.schema._flatbuffer import FlatbufferWriter, Offset, Slot

__all__ = [
    "BINARY",
    "INT64",
    "STRING",
    "ArrowField",
    "ArrowType",
    "list_of",
    "serialize",
    "struct_of",
]

_VERSION_5 = 4
_HEADER_SCHEMA = 1


@dataclass(frozen=True)
class ArrowType:
    """A type: its number in Arrow's format, its own members, and the fields within it."""

    number: int
    slots: tuple[Slot, ...] = ()
    children: tuple["ArrowField", ...] = ()


@dataclass(frozen=True)
class ArrowField:
    """A field that may be null, with its documentation."""

    name: str
    type: ArrowType
    doc: str | None = None


INT64 = ArrowType(2, slots=((0, "i", 64), (1, "B", 1)))
BINARY = ArrowType(4)
STRING = ArrowType(5)


def list_of(item: ArrowType) -> ArrowType:
    """Returns the type of lists of an item type."""
    return ArrowType(12, children=(ArrowField("item", item),))


def struct_of(fields: Sequence[ArrowField]) -> ArrowType:
    """Returns the type of structs of these fields."""
    return ArrowType(13, children=tuple(fields))


def serialize(fields: Sequence[ArrowField]) -> str:
    """Returns the schema of these fields as an encapsulated Arrow message in base64."""
    writer = FlatbufferWriter()
    vector = writer.vector([_write_field(writer, field) for field in fields])
    schema = writer.table([(1, "ref", vector)])
    message = writer.table([(2, "ref", schema), (0, "h", _VERSION_5), (1, "B", _HEADER_SCHEMA)])
    data = writer.finish(message)
    data += bytes(-len(data) % 8)
    return b64encode(struct.pack("<iI", -1, len(data)) + data).decode()


def _write_field(writer: FlatbufferWriter, field: ArrowField) -> Offset:
    children = [_write_field(writer, child) for child in field.type.children]
    type_table = writer.table(field.type.slots)
    slots: list[Slot] = []
    if field.doc is not None:
        key, value = writer.string("__doc__"), writer.string(field.doc)
        pair = writer.table([(1, "ref", value), (0, "ref", key)])
        slots.append((6, "ref", writer.vector([pair])))
    name = writer.string(field.name)
    slots += [(5, "ref", writer.vector(children)), (3, "ref", type_table), (0, "ref", name)]
    return writer.table([*slots, (2, "B", field.type.number), (1, "B", 1)])
