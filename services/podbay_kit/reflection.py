"""The descriptors that reflection serves: with JSON names, and methods found by name.

The code that protoc generates for Python leaves the JSON names of fields out of its descriptors,
and grpcurl then prints `session_id` where the JSON interface says `sessionId`. And the pool of
protobuf's C implementation does not find the file of a method, so that
`grpcurl describe package.Service.Method` fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

    _Pool = descriptor_pool.DescriptorPool
else:
    # The pool's class cannot be derived from without making a second pool.
    _Pool = object

__all__ = ["ReflectionPool", "json_name"]


def json_name(name: str) -> str:
    """Return the JSON name of a field, as protobuf's JSON mapping defines it."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)


class ReflectionPool(_Pool):
    """The default pool as reflection needs it."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileByName(self, file_name: str) -> Any:  # noqa: N802 # the pool's name
        """Return a file, or raise KeyError."""
        return _File(self._pool.FindFileByName(file_name))

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 # the pool's name
        """Return the file that holds a symbol, or raise KeyError."""
        try:
            return _File(self._pool.FindFileContainingSymbol(symbol))
        except KeyError:
            name, _, method = symbol.rpartition(".")
            service = self._pool.FindServiceByName(name)
            if method not in service.methods_by_name:
                raise
            return _File(service.file)


class _File:
    """A file whose copies have the JSON names of all fields."""

    def __init__(self, file: FileDescriptor) -> None:
        self._file = file
        self.name = file.name
        self.dependencies = [_File(dependency) for dependency in file.dependencies]

    def CopyToProto(self, proto: FileDescriptorProto) -> None:  # noqa: N802 # the descriptor's name
        """Copy the file into a message."""
        self._file.CopyToProto(proto)
        _name_fields(proto.message_type)


def _name_fields(messages: Iterable[DescriptorProto]) -> None:
    for message in messages:
        for field in message.field:
            if not field.json_name:
                field.json_name = json_name(field.name)
        _name_fields(message.nested_type)
