"""Channels and RPCs of the synchronous face."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
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
from podbay._core.wire_errors import from_status, unreachable
from podbay._tls.credentials import channel_credentials, files_state
from podbay._tls.look import look
from podbay.errors import PodbayError
from podbay.types import Installation

__all__ = ["Endpoint", "Transport", "error_of"]

T = TypeVar("T")

# After a deadline: how long to look whether the service can be reached at all.
_LOOK_SECONDS = 0.2


def error_of(error: grpc.RpcError, what: str, address: str) -> PodbayError:
    """Return the client's error for one of gRPC's."""
    call: Any = error  # what gRPC raises is the call as well
    code = call.code()
    return from_status(
        code.name if code is not None else "UNKNOWN",
        call.details() or "",
        call.trailing_metadata(),
        what=what,
        address=address,
    )


def _code_of(error: Any) -> grpc.StatusCode | None:
    code: grpc.StatusCode | None = error.code()
    return code


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
            grpc.insecure_channel(address, options=options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options=options)
        )
        self._reached = False

    def reach(self, timeout: float) -> None:
        """Wait for the first connection.

        Args:
            timeout: How long to wait, in seconds, where it was reached before; a first contact
                takes `FIRST_CONTACT_SECONDS` at most.

        Raises:
            UnavailableError: There is none.
            SecureConnectionError: There can be none, as TLS does not fit.
        """
        if self._reached:
            return
        patience = min(timeout, FIRST_CONTACT_SECONDS)
        first = min(patience, FIRST_LOOK_SECONDS)
        if self.is_ready(first):
            return
        # What does not fit does not come to fit by waiting.
        problem = look(self._tls, self.address, last=False)
        if problem is not None:
            raise problem
        if not self.is_ready(max(patience - first, LEAST_SECONDS)):
            raise self.why_not(patience)

    def why_not(self, waited: float) -> PodbayError:
        """Return the error that says why there is no connection, after a number of seconds."""
        problem = look(self._tls, self.address, last=True)
        return problem or unreachable(self.service.value, self.address, waited)

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

    def is_ready(self, timeout: float) -> bool:
        """Whether there is a connection, or comes to be one within a number of seconds."""
        # gRPC's own way, a subscription to the channel's state, leaves a thread behind that fails
        # loudly when the channel is closed soon after.
        check: Any = self.channel.unary_unary(HEALTH_CHECK)
        try:
            check(b"", timeout=timeout, wait_for_ready=True)
        except grpc.RpcError as error:
            code = _code_of(error)
            if code is grpc.StatusCode.CANCELLED:
                # Said where the channel was closed meanwhile, which another call on it tells for
                # sure; and by a server that stops, which is then not ready.
                self._check_open()
                return False
            if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                return False
        except ValueError:
            raise closed_error() from None
        self._reached = True
        return True

    def leads(self, timeout: float) -> bool:
        """Whether it is the session manager that leads, as far as it tells in so many seconds."""
        ask: Any = self.channel.unary_unary(HEALTH_CHECK)
        try:
            # A connection that failed is tried again at once, and not at gRPC's own time.
            answer = ask(LEADER_QUESTION, timeout=timeout, wait_for_ready=False)
        except grpc.RpcError:
            return False
        except ValueError:
            raise closed_error() from None
        self._reached = True
        return bool(answer == LEADS)

    def _check_open(self) -> None:
        """Return where the channel is open.

        Raises:
            CancelledCallError: It is closed.
        """
        try:
            # Without waiting for a connection, so this is over at once.
            check: Any = self.channel.unary_unary(HEALTH_CHECK)
            check.future(b"", timeout=LEAST_SECONDS).cancel()
        except ValueError:
            raise closed_error() from None


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _guarded(requests: Iterator[Message], failed: list[Exception]) -> Iterator[Message]:
    """Yield requests until making one fails, and keep why: gRPC itself would only log it."""
    try:
        yield from requests
    except Exception as error:  # noqa: BLE001 # raised where the call ends
        failed.append(error)


class Transport:
    """The channels of one client: three at most, made when they are needed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._metadata = authorization(settings.api_token)
        self._lock = threading.Lock()
        self._endpoints: dict[Service, Endpoint] = {}
        # Those with certificates that were renewed since, for what still runs on them.
        self._former: dict[Service | str, Endpoint] = {}
        self._managers: dict[str, Endpoint] = {}
        self._leaders: Leaders | None = None
        self._installation: Installation | None = None
        self._closed = False
        self._left = False
        forks.follow(self)

    def installation(self, timeout: float | None = None) -> Installation:
        """Return what the registry says of the installation; asked once."""
        if self._installation is None:
            self._installation = self.run(platform_ops.get_installation(), timeout)
        return self._installation

    def endpoint(self, service: Service, timeout: float | None = None) -> Endpoint:
        """Return the channel to a service; the registry may have to be asked where it is."""
        if service is Service.SESSION_MANAGER:
            return self._leader(check_timeout(timeout, self.settings.timeout))
        with self._lock:
            self._check_open()
            found = self._endpoints.get(service)
            if found is not None and found.is_outdated():
                found = self._renewed(found)
        if found is not None:
            return found
        address = (
            self.settings.endpoint
            if service is Service.REGISTRY
            else address_of(service, self.installation(timeout))
        )
        with self._lock:
            self._check_open()
            if service not in self._endpoints:
                self._endpoints[service] = Endpoint(service, address, self.settings.tls)
            return self._endpoints[service]

    def _renewed(self, found: Endpoint) -> Endpoint:
        """Return a channel with the certificates of the moment; the former where they are none."""
        try:
            new = Endpoint(found.service, found.address, self.settings.tls)
        except PodbayError:
            return found
        oldest = self._former.pop(found.service, None)
        if oldest is not None:
            oldest.channel.close()
        self._former[found.service] = found
        self._endpoints[found.service] = new
        return new

    def run(self, operation: Operation[T], timeout: float | None = None) -> T:
        """Send an RPC and return what it brings, with further tries where they do no harm.

        Args:
            operation: The RPC.
            timeout: How long all tries may take, in seconds; the client's timeout unless given.

        Raises:
            PodbayError: It failed.
        """
        return self.run_until(operation, self.deadline(timeout))

    def run_pages(
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
        page = self.run_until(make(""), deadline)
        items = list(page.items)
        while page.next_token:
            page = self.run_until(make(page.next_token), deadline)
            items += page.items
        return items

    def deadline(self, timeout: float | None) -> float:
        """Return when a call that begins now must end, on the clock of `run_until`.

        Args:
            timeout: How long it may take, in seconds; the client's timeout unless given.

        Raises:
            InvalidRequestError: It is not a number above 0.
        """
        return time.monotonic() + check_timeout(timeout, self.settings.timeout)

    def run_until(self, operation: Operation[T], deadline: float) -> T:
        """Send an RPC like `run`, until a point in time."""
        began = time.monotonic()
        attempts = Attempts(self.settings.retries, operation.safe, deadline)
        while True:
            try:
                answer = self._once(operation, began, deadline)
                return decoded(operation, answer, deadline - time.monotonic())
            except PodbayError as error:
                delay = attempts.next_delay(error, time.monotonic(), random.random())  # noqa: S311 # spreads tries, keeps no secret
                if delay is None:
                    raise
            time.sleep(delay)

    def stream(
        self, operation: StreamOperation[T], timeout: float | None = None
    ) -> Generator[T, None, None]:
        """Send an RPC with a stream of answers; closing the iterator cancels it.

        Args:
            operation: The RPC.
            timeout: When it ends with DEADLINE_EXCEEDED, in seconds from now; None for never.

        Raises:
            PodbayError: It failed. It is not tried again.
        """
        began = time.monotonic()
        patience = check_timeout(timeout, self.settings.timeout)
        endpoint = self.endpoint(operation.service, patience)
        endpoint.reach(patience)
        left = None if timeout is None else max(patience + began - time.monotonic(), LEAST_SECONDS)
        rpc = endpoint.channel.unary_stream(
            operation.path,
            request_serializer=type(operation.request).SerializeToString,
            response_deserializer=operation.response.FromString,
        )
        try:
            answers = rpc(
                operation.request, timeout=left, metadata=(*self._metadata, *trace_metadata())
            )
        except ValueError:
            raise closed_error() from None
        try:
            for answer in answers:
                yield from decoded_all(operation, answer)
        except grpc.RpcError as error:
            raise self._failure(error, operation.what, endpoint) from None
        finally:
            answers.cancel()

    def upload(self, operation: UploadOperation[T], requests: Iterator[Message]) -> T:
        """Send an RPC with a stream of requests, and return what it brings.

        Requests are taken as the service has room for them.

        Raises:
            PodbayError: It failed. It is not tried again.
        """
        endpoint = self.endpoint(operation.service)
        endpoint.reach(self.settings.timeout)
        rpc: Any = endpoint.channel.stream_unary(
            operation.path,
            request_serializer=_serialized,
            response_deserializer=operation.response.FromString,
        )
        failed: list[Exception] = []
        try:
            answer = rpc(_guarded(requests, failed), metadata=self._metadata)
        except grpc.RpcError as error:
            if failed:
                raise failed[0] from None
            raise self._failure(error, operation.what, endpoint) from None
        except ValueError:
            raise closed_error() from None
        return decoded(operation, answer)

    def follow(
        self, make: Callable[[], StreamOperation[T]], timeout: float | None = None
    ) -> Generator[T, None, None]:
        """Send an RPC with a stream of answers, and send it again when the stream is lost.

        Args:
            make: Returns the RPC, to go on from where it was lost.
            timeout: When it ends with DEADLINE_EXCEEDED, in seconds from now; None for never.

        Raises:
            PodbayError: It failed, or was lost for longer than the client's timeout.
        """
        if timeout is not None:
            timeout = check_timeout(timeout, timeout)
        began = time.monotonic()
        reconnects = Reconnects(self.settings.timeout if self.settings.retries else 0.0)
        while True:
            left = (
                None if timeout is None else max(timeout + began - time.monotonic(), LEAST_SECONDS)
            )
            try:
                with closing(self.stream(make(), left)) as results:
                    for result in results:
                        reconnects.came()
                        yield result
            except PodbayError as error:
                now = time.monotonic()
                delay = reconnects.next_delay(error, now, random.random())  # noqa: S311 # spreads tries
                if delay is None or self._closed:
                    raise
            else:
                return
            time.sleep(delay if left is None else min(delay, left))

    def left_behind(self) -> None:
        """Be closed, as this is a forked child; see `forks`."""
        self._lock = threading.Lock()
        self._closed = self._left = True

    def close(self) -> None:
        """Close the channels; what runs on them is cancelled."""
        if self._left:
            return  # they are the parent's
        with self._lock:
            self._closed = True
            endpoints = [
                *self._endpoints.values(),
                *self._former.values(),
                *self._managers.values(),
            ]
            self._endpoints.clear()
            self._former.clear()
            self._managers.clear()
        for endpoint in endpoints:
            endpoint.channel.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def _once(self, operation: Operation[Any], began: float, deadline: float) -> Any:
        endpoint = self.endpoint(operation.service, max(deadline - time.monotonic(), LEAST_SECONDS))
        endpoint.reach(max(deadline - time.monotonic(), LEAST_SECONDS))
        rpc = endpoint.channel.unary_unary(
            operation.path,
            request_serializer=type(operation.request).SerializeToString,
            response_deserializer=operation.response.FromString,
        )
        left = max(deadline - time.monotonic(), LEAST_SECONDS)
        try:
            return rpc(
                operation.request,
                timeout=left,
                metadata=(*self._metadata, *trace_metadata()),
                wait_for_ready=endpoint.waits,
            )
        except grpc.RpcError as error:
            failure = self._failure(error, operation.what, endpoint)
        except ValueError:
            raise closed_error() from None
        if is_bare_deadline(failure) and not self._closed and not endpoint.is_ready(_LOOK_SECONDS):
            raise endpoint.why_not(deadline - began)
        raise failure

    def _leader(self, timeout: float) -> Endpoint:
        """Return the channel to the session manager that leads; wait where none does.

        Raises:
            UnavailableError: None was found within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        if self._leaders is None:
            told = address_of(Service.SESSION_MANAGER, self.installation(timeout))
            self._leaders = Leaders(told)
        while not (address := self._leaders.current(time.monotonic())):
            for known in self._leaders.addresses:
                left = deadline - time.monotonic()
                if self._manager(known).leads(min(LOOK_SECONDS, max(left, LEAST_SECONDS))):
                    self._leaders.choose(known, time.monotonic())
                    break
            else:
                if time.monotonic() + PAUSE_SECONDS >= deadline:
                    where = ", ".join(self._leaders.addresses)
                    raise unreachable(f"{Service.SESSION_MANAGER.value} that leads", where, timeout)
                time.sleep(PAUSE_SECONDS)
        return self._manager(address)

    def _manager(self, address: str) -> Endpoint:
        several = self._leaders is not None and self._leaders.several
        with self._lock:
            self._check_open()
            found = self._managers.get(address)
            if found is not None and not found.is_outdated():
                return found
            try:
                new = Endpoint(Service.SESSION_MANAGER, address, self.settings.tls, several=several)
            except PodbayError:
                if found is None:
                    raise
                return found
            if found is not None:
                oldest = self._former.pop(address, None)
                if oldest is not None:
                    oldest.channel.close()
                self._former[address] = found
            self._managers[address] = new
            return new

    def _failure(self, error: grpc.RpcError, what: str, endpoint: Endpoint) -> PodbayError:
        """Return the client's error for one of gRPC's, and learn from it who leads."""
        failure = error_of(error, what, endpoint.address)
        if self._leaders is not None and endpoint.service is Service.SESSION_MANAGER:
            self._leaders.failed(endpoint.address, failure)
        return failure

    def closed_error(self) -> PodbayError:
        """Return the error of a call where it is closed."""
        return forks.left_error() if self._left else closed_error()

    def _check_open(self) -> None:
        if self._closed:
            raise self.closed_error()
