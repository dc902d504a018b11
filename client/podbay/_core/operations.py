"""What an RPC is to the client, before anybody sends it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

__all__ = ["Operation", "Page", "Service", "StreamOperation", "UploadOperation"]

T = TypeVar("T")


class Service(enum.Enum):
    """The services, by what people call them."""

    REGISTRY = "registry"
    SESSION_MANAGER = "session manager"
    ROUTER = "inference router"


_PROTO_NAMES = {
    Service.REGISTRY: "RegistryService",
    Service.SESSION_MANAGER: "SessionManagerService",
    Service.ROUTER: "InferenceRouterService",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[T]):
    """One unary RPC.

    Attributes:
        service: Which service it is for.
        method: The name of the RPC, as "GetModel".
        what: What it does, after "to", as "get the model"; for errors that explain nothing.
        request: The message to send.
        response: The class of the answer.
        decode: Makes what the user gets of the answer.
        safe: Whether it does no harm to run it twice.
    """

    service: Service
    method: str
    what: str
    request: Message
    response: type[Message]
    decode: Callable[[Any], T]
    safe: bool = True

    @property
    def path(self) -> str:
        """The path of the RPC, as "/podbay.v1.RegistryService/GetModel"."""
        return f"/podbay.v1.{_PROTO_NAMES[self.service]}/{self.method}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOperation(Generic[T]):
    """One RPC whose answers come as a stream.

    Attributes:
        service: Which service it is for.
        method: The name of the RPC, as "WatchModels".
        what: What it does, after "to".
        request: The message to send.
        response: The class of the answers.
        decode: Makes what the user gets of one answer: any number of results.
    """

    service: Service
    method: str
    what: str
    request: Message
    response: type[Message]
    decode: Callable[[Any], list[T]]

    @property
    def path(self) -> str:
        """The path of the RPC."""
        return f"/podbay.v1.{_PROTO_NAMES[self.service]}/{self.method}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOperation(Generic[T]):
    """One RPC whose requests go out as a stream.

    Attributes:
        service: Which service it is for.
        method: The name of the RPC, as "UploadModelFile".
        what: What it does, after "to".
        response: The class of the answer.
        decode: Makes what the user gets of the answer.
    """

    service: Service
    method: str
    what: str
    response: type[Message]
    decode: Callable[[Any], T]

    @property
    def path(self) -> str:
        """The path of the RPC."""
        return f"/podbay.v1.{_PROTO_NAMES[self.service]}/{self.method}"


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list.

    Attributes:
        items: What is on it.
        next_token: The token of the next page; empty on the last.
        revision: The revision of the store that it shows.
    """

    items: list[T]
    next_token: str
    revision: int
