"""What stands around every RPC: errors become statuses, callers are known, nothing is ignored."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from podbay.v1 import errors_pb2
from podbay_kit.access import Access, set_access
from podbay_kit.audit import AuditEntry, CallLog, note
from podbay_kit.auth import Authenticator, Principal, bearer_token, set_principal
from podbay_kit.errors import ServiceError, from_validation_error, invalid
from podbay_kit.peers import identity_of, principal_of
from podbay_kit.rpc_rules import RULES, Rule
from podbay_kit.tasks import ended
from podbay_kit.tracing import Spans

__all__ = ["RECHECK_SECONDS", "PodbayInterceptor", "abort_with"]

_LOG = logging.getLogger(__name__)

# Open to everybody: they tell only what the protos tell, and whether the service is up.
_OPEN_PREFIXES = ("/grpc.health.v1.", "/grpc.reflection.")

RECHECK_SECONDS: Final = 2.0
"""How often the token of a stream is looked at again: it may have expired, or been revoked."""

if TYPE_CHECKING:
    # Generic in the stubs only.
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]


async def abort_with(context: Context, error: ServiceError) -> NoReturn:
    """End an RPC with an error, its reason and its details."""
    status = error.to_status()
    await context.abort(
        error.code,
        status.message,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )


class PodbayInterceptor(grpc.aio.ServerInterceptor):
    """Authenticates, refuses unknown fields, and turns exceptions into statuses.

    Args:
        authenticator: Tells whom a token acts for; None where the service itself authenticates.
        rules: What each RPC needs, by its full name. One that is not here is answered to nobody.
        recheck_seconds: How often the token of a stream is looked at again.
        reject_unknown_fields: Whether requests with fields that this version does not know are
            refused, instead of having them ignored in silence.
        spans: Puts a span around each RPC that has one request; None for no spans.
        installation: The name of the installation, where peers may show certificates of it: those
            of services tell who calls, in place of a token. None where there are none.
        audit: Takes note of what is changed and refused; None for a service without such a log.
    """

    def __init__(
        self,
        authenticator: Authenticator | None,
        *,
        reject_unknown_fields: bool,
        spans: Spans | None = None,
        rules: Mapping[str, Rule] = RULES,
        recheck_seconds: float = RECHECK_SECONDS,
        installation: str | None = None,
        audit: CallLog | None = None,
    ) -> None:
        self._audit = audit
        self._authenticator = authenticator
        self._installation = installation
        self._rules = rules
        self._recheck_seconds = recheck_seconds
        self._spans = spans
        self._reject_unknown_fields = reject_unknown_fields
        self._wrappers: dict[str, Handler] = {}
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = False

    def refuse(self) -> None:
        """Refuse new RPCs from now on, with SERVICE_STOPPING."""
        self._refusing = True

    @property
    def running(self) -> int:
        """How many RPCs run; those open to everybody are not counted."""
        return self._running

    async def idle(self) -> None:
        """Return when no RPC runs."""
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wrap the handler of one RPC."""
        known = self._wrappers.get(handler_call_details.method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return _unknown_method(method)
        if method.startswith(_OPEN_PREFIXES):
            return handler
        wrapped = self._wrappers[method] = self._wrapped(handler, method)
        return wrapped

    def _wrapped(self, handler: Handler, method: str) -> Handler:
        behaviour: Any = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        if inspect.isasyncgenfunction(behaviour):
            # grpc.aio does not close async generators on errors (grpc#42295).
            raise TypeError(f"{method} must be a coroutine that awaits context.write()")
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        wrapped: Handler = make(
            self._around(behaviour, method, handler),
            # A single request is parsed inside the wrapper: bytes that are no message would
            # otherwise end the call with UNKNOWN and the text of the parser's exception.
            request_deserializer=(
                handler.request_deserializer if handler.request_streaming else None
            ),
            response_serializer=handler.response_serializer,
        )
        return wrapped

    def _around(
        self, behaviour: Callable[[Any, Context], Awaitable[Any]], method: str, handler: Handler
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        parse: Any = handler.request_deserializer
        streams_in = bool(handler.request_streaming)
        # An upload of a large file goes on for as long as an answer does.
        streams = streams_in or bool(handler.response_streaming)
        spans = None if streams_in else self._spans

        async def handle(received: bytes | AsyncIterator[Message], context: Context) -> Any:
            self._running += 1
            self._idle.clear()
            access: Access | None = None
            entry = None if self._audit is None else self._audit.begin(method, context.peer())
            try:
                access = await self._admit(method, context, entry)
                request = received if streams_in else self._parsed(parse, received)
                work = behaviour(request, context)
                if access is not None:
                    work = self._within(work, access, method, context, streams=streams)
                if spans is None:
                    answer = await work
                else:
                    with spans.rpc(method, context.invocation_metadata() or ()):
                        answer = await work
                if self._audit is not None and entry is not None:
                    await self._audit.succeeded(entry)
            except (grpc.aio.AbortError, grpc.aio.InternalError):
                # The second is gRPC's word of a call that is over: there is nobody to be told.
                raise
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # Nobody cancelled this RPC: something inside it did. Left alone, this would hang
                # the client (grpc#29248).
                await self._fail(context, entry, _internal(method))
            except Exception as error:  # noqa: BLE001 # the edge: nothing may pass it unexplained
                told = _told(error, method)
                await self._fail(context, entry, told if access is None else access.answer(told))
            else:
                return answer
            finally:
                self._running -= 1
                if not self._running:
                    self._idle.set()

        return handle

    async def _admit(
        self, method: str, context: Context, entry: AuditEntry | None
    ) -> Access | None:
        """Let an RPC pass whose caller may do such a thing, unless the server is about to stop."""
        if self._refusing:
            raise _stopping()
        principal = self._service_of(method, context)
        if principal is None:
            if self._authenticator is None:
                return None
            principal = await self._authenticator.authenticate(_token_of(context))
        if entry is not None:
            entry.actor_account, entry.actor_token = principal.account, principal.token_id
        rule = self._rules.get(method)
        if rule is None:
            raise LookupError(f"the table of rules says nothing of {method}")
        set_principal(principal)
        access = Access(rule, principal)
        set_access(access)
        access.begin()
        return access

    def _service_of(self, method: str, context: Context) -> Principal | None:
        """Return the service whose certificate the caller has shown; None where it has not.

        Raises:
            ServiceError: SERVICE_IDENTITY_DENIED.
        """
        if self._installation is None:
            return None
        peer = identity_of(context.auth_context())
        return None if peer is None else principal_of(peer, self._installation, method)

    async def _within(
        self, work: Awaitable[Any], access: Access, method: str, context: Context, *, streams: bool
    ) -> Any:
        """Do the work of an RPC, for as long as its caller may have it done.

        Raises:
            LookupError: The servicer has asked nobody whether the caller may do this.
        """
        if streams and not access.principal.service:
            response = await self._while_valid(work, method, context)
        else:
            response = await work
        if not access.decided:
            raise LookupError(f"{method} has asked nobody whether the caller may do this")
        return response

    async def _while_valid(self, work: Awaitable[Any], method: str, context: Context) -> Any:
        """Let a stream go on for as long as its token is good.

        Raises:
            ServiceError: TOKEN_EXPIRED, TOKEN_REVOKED or TOKEN_INVALID.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=self._recheck_seconds)
                if not task.done():
                    await self._recheck(_token_of(context))
        except BaseException:
            await _leave(task, method)
            raise
        return task.result()

    async def _recheck(self, token: str) -> None:
        if self._authenticator is None:
            return
        try:
            await self._authenticator.authenticate(token)
        except ServiceError as error:
            if error.code is grpc.StatusCode.UNAUTHENTICATED:
                raise
            # Who cannot be asked now has taken nothing back.

    async def _fail(
        self, context: Context, entry: AuditEntry | None, error: ServiceError
    ) -> NoReturn:
        """End an RPC with an error that is taken note of."""
        if self._audit is not None and entry is not None:
            await self._audit.failed(entry, error)
        await abort_with(context, error)

    def _parsed(self, parse: Any, received: Any) -> Message:
        request: Message = parse(received)
        if self._reject_unknown_fields:
            _refuse_unknown_fields(request)
        # What a call was about that is refused before anybody looks for it.
        note(resource_id=getattr(request, "id", None))
        return request


async def _leave(task: asyncio.Future[Any], method: str) -> None:
    """End the work of a stream whose caller has left, or may have it done no longer."""
    error = await ended(task)
    if error is None or isinstance(error, grpc.aio.BaseError):
        return  # a call that is over can be neither read, written nor ended
    if not isinstance(error, Exception) or _explained(error) is None:
        _LOG.error("a defect in %s, whose caller has left", method, exc_info=error)


def _token_of(context: Context) -> str:
    return bearer_token(context.invocation_metadata() or ())


def _told(error: Exception, method: str) -> ServiceError:
    """Return what the caller is told of an exception."""
    # Whatever it is, its text may hold what the caller must not see.
    return _explained(error) or _internal(method)


def _explained(error: Exception) -> ServiceError | None:
    """Return what an exception says of the request or the state of things; None for a defect."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, DecodeError):
        return _not_a_message()
    # Who raises pydantic's error has imported it; the router does not, and need not for this.
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        return from_validation_error(error)
    return None


def _internal(method: str) -> ServiceError:
    incident = uuid.uuid4().hex
    _LOG.exception("incident %s in %s", incident, method)
    return ServiceError(
        errors_pb2.ERROR_REASON_INTERNAL,
        "This is a defect in Podbay, not in the request. The service's log has the details under "
        f"incident {incident}; please report it.",
        metadata={"incident": incident},
    )


def _stopping() -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_SERVICE_STOPPING,
        "The service is about to stop and has not begun the call. Try again.",
        retry_after=0.2,
        not_started=True,
    )


def _not_a_message() -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_INVALID_REQUEST,
        "The request's bytes are not a message of this method. Was it made from these protos?",
    )


def _unknown_method(method: str) -> Handler:
    async def refuse(_request: bytes, context: Context) -> bytes:
        await abort_with(
            context,
            ServiceError(
                errors_pb2.ERROR_REASON_METHOD_NOT_FOUND,
                f"There is no method {method[:200]} here. Reflection lists those that are "
                "(grpcurl HOST:PORT list).",
            ),
        )

    handler: Handler = grpc.unary_unary_rpc_method_handler(refuse)
    return handler


def _refuse_unknown_fields(request: Message) -> None:
    path = _unknown_field(request, "")
    if path is not None:
        raise invalid(
            path, "is not a field that this version knows; the request may be of a newer one"
        )


def _unknown_field(message: Message, path: str) -> str | None:
    unknown = UnknownFieldSet(message)
    if len(unknown):
        return f"{path}#{unknown[0].field_number}"
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        here = f"{path}{field.json_name}"
        if field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            children = (
                [(f"{here}.{key}.", value[key]) for key in value] if entry.message_type else []
            )
        elif field.is_repeated:
            children = [(f"{here}.{index}.", child) for index, child in enumerate(value)]
        else:
            children = [(f"{here}.", value)]
        for child_path, child in children:
            found = _unknown_field(child, child_path)
            if found is not None:
                return found
    return None
