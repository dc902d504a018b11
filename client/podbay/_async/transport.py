"""Channels and RPCs of the asynchronous face."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from podbay._core import forks, platform_ops
from podbay._core.channels import (
    HEALTH_CHECK,
    address_of,
    authorization,
    channel_options,
    closed_error,
    is_bare_deadline,
)
from podbay._core.leaders import (
    BRISK_OPTIONS,
    LEADER_QUESTION,
    LEADS,
    LOOK_SECONDS,
    PAUSE_SECONDS,
    Leaders,
)
from podbay._core.operations import Operation, Page, Service, StreamOperation, UploadOperation
from podbay._core.reading import decoded, decoded_all
from podbay._core.retries import (
    FIRST_CONTACT_SECONDS,
    FIRST_LOOK_SECONDS,
    Attempts,
    Reconnects,
)
from podbay._core.settings import Settings
from podbay._core.timeouts import LEAST_SECONDS, check_timeout
from podbay._core.tls import TlsSettings
from podbay._core.tracing import trace_metadata
from podbay._core.wire_errors import from_status, invalid, unreachable
from podbay._tls.credentials import channel_credentials, files_state
from podbay._tls.look import look
from podbay.errors import PodbayError
from podbay.types import Installation

__all__ = ["Endpoint", "Transport", "error_of"]

T = TypeVar("T")

# After a deadline: how long to look whether the service can be reached at all.
_LOOK_SECONDS = 0.2


def now() -> float:
    """Return the time of the running loop, in seconds."""
    return asyncio.get_running_loop().time()


def error_of(error: grpc.aio.AioRpcError, what: str, address: str) -> PodbayError:
    """Return the client's error for one of gRPC's."""
    trailing: Any = error.trailing_metadata()
    return from_status(
        error.code().name, error.details() or "", trailing, what=what, address=address
    )


class Endpoint:
    """One service and the channel to it."""

    def __init__(
        self, service: Service, address: str, tls: TlsSettings, *, several: bool = False
    ) -> None:
        forks.use_grpc()
        self.service = service
        self.address = address
        self.waits = not several
        """Whether calls wait for a connection; where there are others, they go there instead."""
        self._tls = tls
        self._files = files_state(tls)
        credentials = channel_credentials(tls, address)
        options = [*channel_options(address, tls), *(BRISK_OPTIONS if several else ())]
        self.channel = (
            grpc.aio.insecure_channel(address, options=options)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=options)
        )
        self._reached = False

    def is_outdated(self) -> bool:
        """Whether the files of certificates have changed since; told once."""
        state = files_state(self._tls)
        changed = state != self._files
        self._files = state
        return changed

    @property
    def reached(self) -> bool:
        """Whether there ever was a connection."""
        return self._reached

    async def reach(self, timeout: float) -> None:
        """Wait for the first connection; see the synchronous face.

        Raises:
            UnavailableError: There is none.
            SecureConnectionError: There can be none, as TLS does not fit.
        """
        if self._reached:
            return
        patience = min(timeout, FIRST_CONTACT_SECONDS)
        first = min(patience, FIRST_LOOK_SECONDS)
        if await self.is_ready(first):
            return
        # What does not fit does not come to fit by waiting.
        problem = await asyncio.to_thread(look, self._tls, self.address, last=False)
        if problem is not None:
            raise problem
        if not await self.is_ready(max(patience - first, LEAST_SECONDS)):
            raise await self.why_not(patience)

    async def why_not(self, waited: float) -> PodbayError:
        """Return the error that says why there is no connection, after a number of seconds."""
        problem = await asyncio.to_thread(look, self._tls, self.address, last=True)
        return problem or unreachable(self.service.value, self.address, waited)

    async def is_ready(self, timeout: float) -> bool:
        """Whether there is a connection, or comes to be one within a number of seconds."""
        try:
            check: Any = self.channel.unary_unary(HEALTH_CHECK)
            await check(b"", timeout=timeout, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() in (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,  # by a server that stops
            ):
                return False
        except grpc.aio.UsageError:
            raise closed_error() from None
        self._reached = True
        return True

    async def leads(self, timeout: float) -> bool:
        """Whether it is the session manager that leads, as far as it tells in so many seconds."""
        try:
            ask: Any = self.channel.unary_unary(HEALTH_CHECK)
            answer = await ask(LEADER_QUESTION, timeout=timeout)
        except grpc.aio.AioRpcError:
            return False
        except grpc.aio.UsageError:
            raise closed_error() from None
        self._reached = True
        return bool(answer == LEADS)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


async def _send_all(call: Any, requests: AsyncGenerator[Message, None], careful: int) -> None:
    """Send requests until there are no more, or until the call has ended without them."""
    ended = asyncio.ensure_future(call.code())
    try:
        async for request in requests:
            if ended.done():
                return
            await call.write(request)
            if careful > 0:
                careful -= 1
                await asyncio.wait({ended}, timeout=_LOOK_SECONDS)
        if not ended.done():
            await call.done_writing()
    except asyncio.InvalidStateError:
        # The call is over; its outcome says why.
        return
    finally:
        ended.cancel()


class Transport:
    """The channels of one client: three at most, made when they are needed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._metadata = authorization(settings.api_token)
        self._endpoints: dict[Service, Endpoint] = {}
        # Those with certificates that were renewed since, for what still runs on them.
        self._former: dict[Service | str, Endpoint] = {}
        self._managers: dict[str, Endpoint] = {}
        self._leaders: Leaders | None = None
        self._installation: Installation | None = None
        self._closed = False
        self._left = False
        self._loop: asyncio.AbstractEventLoop | None = None  # to which its channels are bound
        forks.follow(self)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    async def installation(self, timeout: float | None = None) -> Installation:
        """Return what the registry says of the installation; asked once."""
        if self._installation is None:
            self._installation = await self.run(platform_ops.get_installation(), timeout)
        return self._installation

    async def endpoint(self, service: Service, timeout: float | None = None) -> Endpoint:
        """Return the channel to a service; the registry may have to be asked where it is."""
        self._check_open()
        self.check_loop()
        if service is Service.SESSION_MANAGER:
            return await self._leader(check_timeout(timeout, self.settings.timeout))
        if service not in self._endpoints:
            address = (
                self.settings.endpoint
                if service is Service.REGISTRY
                else address_of(service, await self.installation(timeout))
            )
            self._check_open()
            # Another task may have been faster while this one asked.
            self._endpoints.setdefault(service, Endpoint(service, address, self.settings.tls))
        found = self._endpoints[service]
        return await self._renewed(found) if found.is_outdated() else found

    async def _renewed(self, found: Endpoint) -> Endpoint:
        """Return a channel with the certificates of the moment; the former where they are none."""
        try:
            new = Endpoint(found.service, found.address, self.settings.tls)
        except PodbayError:
            return found
        oldest = self._former.pop(found.service, None)
        self._former[found.service] = found
        self._endpoints[found.service] = new
        if oldest is not None:
            await oldest.channel.close()
        return new

    async def run(self, operation: Operation[T], timeout: float | None = None) -> T:
        """Send an RPC and return what it brings, with further tries where they do no harm.

        Args:
            operation: The RPC.
            timeout: How long all tries may take, in seconds; the client's timeout unless given.

        Raises:
            PodbayError: It failed.
        """
        return await self.run_until(operation, self.deadline(timeout))

    async def run_pages(
        self, make: Callable[[str], Operation[Page[T]]], timeout: float | None = None
    ) -> list[T]:
        """Return what is on all pages of a list.

        Args:
            make: Returns the RPC of the page with a token; "" is the first.
            timeout: How long all pages together may take, in seconds.

        Raises:
            PodbayError: A page could not be had.
        """
        deadline = self.deadline(timeout)
        page = await self.run_until(make(""), deadline)
        items = list(page.items)
        while page.next_token:
            page = await self.run_until(make(page.next_token), deadline)
            items += page.items
        return items

    def deadline(self, timeout: float | None) -> float:
        """Return when a call that begins now must end, on the clock of `run_until`.

        Args:
            timeout: How long it may take, in seconds; the client's timeout unless given.

        Raises:
            InvalidRequestError: It is not a number above 0.
        """
        return now() + check_timeout(timeout, self.settings.timeout)

    async def run_until(self, operation: Operation[T], deadline: float) -> T:
        """Send an RPC like `run`, until a point in time."""
        began = now()
        attempts = Attempts(self.settings.retries, operation.safe, deadline)
        while True:
            try:
                answer = await self._once(operation, began, deadline)
                return decoded(operation, answer, deadline - now())
            except PodbayError as error:
                delay = attempts.next_delay(error, now(), random.random())  # noqa: S311 # spreads tries, keeps no secret
                if delay is None:
                    raise
            await asyncio.sleep(delay)

    async def stream(
        self,
        operation: StreamOperation[T],
        timeout: float | None = None,
    ) -> AsyncGenerator[T, None]:
        """Send an RPC with a stream of answers; closing the generator cancels it.

        Args:
            operation: The RPC.
            timeout: When it ends with DEADLINE_EXCEEDED, in seconds from now; None for never.

        Raises:
            PodbayError: It failed. It is not tried again.
        """
        began = now()
        patience = check_timeout(timeout, self.settings.timeout)
        endpoint = await self.endpoint(operation.service, patience)
        await endpoint.reach(patience)
        left = None if timeout is None else max(patience + began - now(), LEAST_SECONDS)
        try:
            rpc = endpoint.channel.unary_stream(
                operation.path,
                request_serializer=type(operation.request).SerializeToString,
                response_deserializer=operation.response.FromString,
            )
            answers = rpc(
                operation.request, timeout=left, metadata=(*self._metadata, *trace_metadata())
            )
        except grpc.aio.UsageError:
            raise closed_error() from None
        try:
            async for answer in answers:
                for result in decoded_all(operation, answer):
                    yield result
        except grpc.aio.AioRpcError as error:
            raise self._failure(error, operation.what, endpoint) from None
        except asyncio.CancelledError:
            self._check_cancelled_by_caller()
            raise
        finally:
            answers.cancel()

    async def upload(
        self,
        operation: UploadOperation[T],
        requests: AsyncGenerator[Message, None],
        *,
        careful: int = 0,
    ) -> T:
        """Send an RPC with a stream of requests, and return what it brings.

        Requests are taken as the service has room for them. Where the service ends the call while
        a request is on its way, gRPC forgets what the service said (INTERNAL): see `careful`.

        Args:
            operation: The RPC.
            requests: The messages.
            careful: After each of so many messages the service gets a moment to refuse.

        Raises:
            PodbayError: It failed. It is not tried again.
        """
        endpoint = await self.endpoint(operation.service)
        await endpoint.reach(self.settings.timeout)
        try:
            rpc: Any = endpoint.channel.stream_unary(
                operation.path,
                request_serializer=_serialized,
                response_deserializer=operation.response.FromString,
            )
            call = rpc(metadata=self._metadata)
        except grpc.aio.UsageError:
            raise closed_error() from None
        try:
            async with aclosing(requests):
                await _send_all(call, requests, careful)
            return decoded(operation, await call)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error, operation.what, endpoint) from None
        except asyncio.CancelledError:
            self._check_cancelled_by_caller()
            raise
        finally:
            call.cancel()

    async def follow(
        self,
        make: Callable[[], StreamOperation[T]],
        timeout: float | None = None,
    ) -> AsyncGenerator[T, None]:
        """Send an RPC with a stream of answers, and send it again when the stream is lost.

        Args:
            make: Returns the RPC, to go on from where it was lost.
            timeout: When it ends with DEADLINE_EXCEEDED, in seconds from now; None for never.

        Raises:
            PodbayError: It failed, or was lost for longer than the client's timeout.
        """
        if timeout is not None:
            timeout = check_timeout(timeout, timeout)
        began = now()
        reconnects = Reconnects(self.settings.timeout if self.settings.retries else 0.0)
        while True:
            left = None if timeout is None else max(timeout + began - now(), LEAST_SECONDS)
            try:
                async with aclosing(self.stream(make(), left)) as results:
                    async for result in results:
                        reconnects.came()
                        yield result
            except PodbayError as error:
                delay = reconnects.next_delay(error, now(), random.random())  # noqa: S311 # spreads tries
                if delay is None or self._closed:
                    raise
            else:
                return
            await asyncio.sleep(delay if left is None else min(delay, left))

    def left_behind(self) -> None:
        """Be closed, as this is a forked child; see `forks`."""
        self._closed = self._left = True

    async def close(self) -> None:
        """Close the channels; what runs on them is cancelled."""
        if self._left:
            return  # they are the parent's
        self._closed = True
        endpoints = [*self._endpoints.values(), *self._former.values(), *self._managers.values()]
        self._endpoints.clear()
        self._former.clear()
        self._managers.clear()
        for endpoint in endpoints:
            await endpoint.channel.close()

    async def _once(self, operation: Operation[Any], began: float, deadline: float) -> Any:
        endpoint = await self.endpoint(operation.service, max(deadline - now(), LEAST_SECONDS))
        await endpoint.reach(max(deadline - now(), LEAST_SECONDS))
        try:
            rpc = endpoint.channel.unary_unary(
                operation.path,
                request_serializer=type(operation.request).SerializeToString,
                response_deserializer=operation.response.FromString,
            )
            return await rpc(
                operation.request,
                timeout=max(deadline - now(), LEAST_SECONDS),
                metadata=(*self._metadata, *trace_metadata()),
                wait_for_ready=endpoint.waits,
            )
        except grpc.aio.AioRpcError as error:
            failure = self._failure(error, operation.what, endpoint)
        except grpc.aio.UsageError:
            raise closed_error() from None
        except asyncio.CancelledError:
            self._check_cancelled_by_caller()
            raise
        if (
            is_bare_deadline(failure)
            and not self._closed
            and not await endpoint.is_ready(_LOOK_SECONDS)
        ):
            raise await endpoint.why_not(deadline - began)
        raise failure

    async def _leader(self, timeout: float) -> Endpoint:
        """Return the channel to the session manager that leads; wait where none does.

        Raises:
            UnavailableError: None was found within `timeout` seconds.
        """
        deadline = now() + timeout
        if self._leaders is None:
            told = address_of(Service.SESSION_MANAGER, await self.installation(timeout))
            self._leaders = Leaders(told)
        while not (address := self._leaders.current(now())):
            for known in self._leaders.addresses:
                left = max(deadline - now(), LEAST_SECONDS)
                if await (await self._manager(known)).leads(min(LOOK_SECONDS, left)):
                    self._leaders.choose(known, now())
                    break
            else:
                if now() + PAUSE_SECONDS >= deadline:
                    where = ", ".join(self._leaders.addresses)
                    raise unreachable(f"{Service.SESSION_MANAGER.value} that leads", where, timeout)
                await asyncio.sleep(PAUSE_SECONDS)
        return await self._manager(address)

    async def _manager(self, address: str) -> Endpoint:
        self._check_open()
        found = self._managers.get(address)
        if found is not None and not found.is_outdated():
            return found
        several = self._leaders is not None and self._leaders.several
        try:
            new = Endpoint(Service.SESSION_MANAGER, address, self.settings.tls, several=several)
        except PodbayError:
            if found is None:
                raise
            return found
        self._managers[address] = new
        if found is not None:
            oldest = self._former.pop(address, None)
            self._former[address] = found
            if oldest is not None:
                await oldest.channel.close()
        return new

    def _failure(self, error: grpc.aio.AioRpcError, what: str, endpoint: Endpoint) -> PodbayError:
        """Return the client's error for one of gRPC's, and learn from it who leads."""
        failure = error_of(error, what, endpoint.address)
        if self._leaders is not None and endpoint.service is Service.SESSION_MANAGER:
            self._leaders.failed(endpoint.address, failure)
        return failure

    def check_loop(self) -> None:
        """Return in the event loop where it was used first; gRPC's channels work in no other.

        Raises:
            InvalidRequestError: This is another one.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise invalid(
                "client",
                "was used in another event loop before, as by an earlier asyncio.run(), and works "
                "in that one only; make a client in each event loop",
                "The call",
            )

    def closed_error(self) -> PodbayError:
        """Return the error of a call where it is closed."""
        return forks.left_error() if self._left else closed_error()

    def _check_open(self) -> None:
        if self._closed:
            raise self.closed_error()

    def _check_cancelled_by_caller(self) -> None:
        """Tell a closed channel, which gRPC reports as a cancel, from a cancel of the task."""
        task = asyncio.current_task()
        if self._closed and not (task is not None and task.cancelling()):
            raise closed_error() from None
