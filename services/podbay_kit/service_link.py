"""The way from one service to another: a channel, and what tells the other who calls."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc

from podbay.schema.identities import service_dns
from podbay_kit.starting import split_address
from podbay_kit.tls_credentials import channel_credentials

if TYPE_CHECKING:
    from podbay_kit.tls_files import LiveTls, TlsMaterial

__all__ = ["ServiceLink"]

_LOG = logging.getLogger(__name__)

# How long calls on a channel with a former certificate may go on. Streams begin anew afterwards.
_LEAVING_SECONDS: Final = 300.0
# How often a name that does not resolve is asked for again, at most.
_RESOLVE_SECONDS: Final = 1.0
_UNRESOLVED: Final = "DNS resolution failed"
# gRPC's clock and ours may differ by so much.
_SLACK_SECONDS: Final = 0.05


class ServiceLink:
    """A way to another service of the installation.

    With certificates, both sides show theirs; the other's must be that of the service that is
    meant, whatever its address is. Without, the token of the services goes along, over loopback.
    After a renewal new calls take a new connection.

    gRPC asks for a name that does not resolve in ever longer pauses, up to two minutes, and nothing
    shortens them but a new channel: whoever sees a call fail says so with `failed`.

    Args:
        endpoint: Where the other service is for services, as "127.0.0.1:7111".
        service: Which one it is, as "registry".
        make_stub: Makes a stub of a channel.
        options: The options of the channel.
        certificate: This service's certificate; None for plain text.
        service_token: The secret that the services share; None where there are certificates.
    """

    def __init__(
        self,
        endpoint: str,
        service: str,
        make_stub: Callable[[grpc.aio.Channel], Any],
        *,
        options: Sequence[tuple[str, Any]] = (),
        certificate: LiveTls | None = None,
        service_token: str | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._service = service
        self._make_stub = make_stub
        self._options = tuple(options)
        self._certificate = certificate
        self._shown: TlsMaterial | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._spoiled = False
        self._resolved_at = float("-inf")
        self._leaving: dict[asyncio.Task[None], grpc.aio.Channel] = {}
        self.metadata: tuple[tuple[str, str], ...] = (
            (("authorization", f"Bearer {service_token}"),) if service_token else ()
        )
        """What goes along with each call."""
        self.stub: Any = _Renewed(self._current)
        """Makes calls, each on the channel of the moment. One with a single answer either returns
        its message or raises `AioRpcError`."""

    async def close(self) -> None:
        """Close the connections."""
        leaving = dict(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        for channel in leaving.values():
            await channel.close()
        if self._channel is not None:
            await self._channel.close()

    def failed(self, error: grpc.aio.AioRpcError) -> str:
        """Take note of a call that failed because the other service did not answer.

        Args:
            error: How it failed.

        Returns:
            Why, in a few words for people: what does not resolve, or the name of the code.
        """
        if not (error.details() or "").startswith(_UNRESOLVED):
            return error.code().name
        now = time.monotonic()
        if now - self._resolved_at >= _RESOLVE_SECONDS:
            self._resolved_at = now
            self._spoiled = True
        host, _ = split_address(self._endpoint)
        return f"the name {host} does not resolve"

    def _current(self) -> Any:
        material = self._certificate.current() if self._certificate else None
        if self._channel is not None:
            if material is self._shown and not self._spoiled:
                return self._stub
            if material is not self._shown:
                _LOG.info(
                    "the connection to the %s is made anew, with the new certificate",
                    self._service,
                )
            leaving = asyncio.get_running_loop().create_task(
                self._channel.close(_LEAVING_SECONDS), name="leave-channel"
            )
            self._leaving[leaving] = self._channel
            leaving.add_done_callback(lambda done: self._leaving.pop(done, None))
        self._shown = material
        self._spoiled = False
        self._channel = self._connect(material)
        self._stub = self._make_stub(self._channel)
        return self._stub

    def _connect(self, material: TlsMaterial | None) -> grpc.aio.Channel:
        # A connection of its own: channels with equal options would share that of a former
        # certificate.
        options = [*self._options, ("grpc.use_local_subchannel_pool", 1)]
        if material is None:
            return grpc.aio.insecure_channel(self._endpoint, options=options)
        name = service_dns(material.identity.installation, self._service)
        options.append(("grpc.ssl_target_name_override", name))
        return grpc.aio.secure_channel(
            self._endpoint, channel_credentials(material), options=options
        )


class _Renewed:
    """A stub that is another one after a while."""

    def __init__(self, current: Callable[[], Any]) -> None:
        self._current = current

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._current(), name)
        one_answer = isinstance(
            method, grpc.aio.UnaryUnaryMultiCallable | grpc.aio.StreamUnaryMultiCallable
        )
        return functools.partial(_answer, method) if one_answer else method


async def _answer(
    method: Callable[..., Awaitable[Any]],
    *given: Any,
    timeout: float | None = None,  # noqa: ASYNC109 # gRPC's own, which the other side is told
    **more: Any,
) -> Any:
    """Make a call, and return its message.

    gRPC tells of success without a message where the time is up in the moment in which the answer
    comes, and where it cannot read it.

    Raises:
        AioRpcError: It failed; DEADLINE_EXCEEDED or INTERNAL where there is no message.
    """
    until = math.inf if timeout is None else time.monotonic() + timeout
    message = await method(*given, timeout=timeout, **more)
    if message is not None:
        return message
    late = time.monotonic() >= until - _SLACK_SECONDS
    code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.INTERNAL
    raise grpc.aio.AioRpcError(
        code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(),
        details="the time was up as the answer came, and it is lost"
        if late
        else "the answer cannot be read",
    )
