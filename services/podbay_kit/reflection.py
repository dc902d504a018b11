"""Reflection: loaded when it is first asked for, with JSON names, and methods found by name.

The code that protoc generates for Python leaves the JSON names of fields out of its descriptors,
and grpcurl then prints `session_id` where the JSON interface says `sessionId`. And the pool of
protobuf's C implementation does not find the file of a method, so that
`grpcurl describe package.Service.Method` fails.

Descriptors as messages take long to import, and few ever ask for them: a service that starts does
without.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf import descriptor_pool

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor
    from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

    Handler = grpc.RpcMethodHandler[Any, Any]

    _Pool = descriptor_pool.DescriptorPool
else:
    # The pool's class cannot be derived from without making a second pool.
    _Pool = object

__all__ = ["REFLECTION_SERVICE", "LazyReflection", "ReflectionPool", "json_name"]

REFLECTION_SERVICE: Final = "grpc.reflection.v1alpha.ServerReflection"
"""The full name of the service."""

_METHOD: Final = f"/{REFLECTION_SERVICE}/ServerReflectionInfo"


class LazyReflection(grpc.GenericRpcHandler):
    """Answers reflection, and imports what that takes with the first question.

    Args:
        services: The full names of the services that it tells of.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = tuple(services)
        self._handler: Handler | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return what answers a call; None where it is of another service."""
        if handler_call_details.method != _METHOD:
            return None
        if self._handler is None:
            self._handler = self._loaded()
        return self._handler

    def _loaded(self) -> Handler:
        from grpc_reflection.v1alpha import reflection, reflection_pb2  # noqa: PLC0415 # heavy

        servicer = reflection.aio.ReflectionServicer(self._services, pool=ReflectionPool())
        handler: Handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        return handler


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
