"""Spans of RPCs and calls on the OpenTelemetry API, where a program has set up tracing.

Without the API, or without a tracer provider, there are no spans and they cost nothing. The
interceptor of OpenTelemetry's own for grpc.aio blocks cancellation, so this is not that one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from podbay_kit.errors import ServiceError, reason_name

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind, Tracer

__all__ = ["Spans", "configured_spans"]


class Spans:
    """Begins and ends spans whose parents came over the wire.

    Args:
        tracer: Where they come from.
        kinds: OpenTelemetry's kinds of spans.
        propagator: Reads and writes W3C trace contexts.
    """

    def __init__(self, tracer: Tracer, kinds: type[SpanKind], propagator: Any) -> None:
        self._tracer = tracer
        self._kinds = kinds
        self._propagator = propagator

    def begin(
        self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, str]
    ) -> tuple[Span, dict[str, str]]:
        """Begin a span of a server.

        Args:
            name: What is done.
            carrier: "traceparent" and "tracestate" as they came.
            attributes: What there is to know of it.

        Returns:
            The span, and the carrier that leads on from it.
        """
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 # an extra

        parent = self._propagator.extract(carrier)
        span = self._tracer.start_span(
            name, context=parent, kind=self._kinds.SERVER, attributes=dict(attributes)
        )
        onward: dict[str, str] = {}
        self._propagator.inject(onward, context=set_span_in_context(span, parent))
        return span, onward

    def end(self, span: Span, error: str = "", attributes: Mapping[str, str] | None = None) -> None:
        """End a span.

        Args:
            span: The span.
            error: The reason of the failure, if there was one.
            attributes: What there is to know by now.
        """
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 # an extra

        if attributes:
            span.set_attributes(dict(attributes))
        if error:
            span.set_attribute("podbay.reason", error)
            span.set_status(Status(StatusCode.ERROR, error))
        span.end()

    @contextlib.contextmanager
    def rpc(self, method: str, metadata: Iterable[tuple[str, Any]]) -> Iterator[Span]:
        """Put a span around the handler of an RPC.

        Args:
            method: The full name, as "/podbay.v1.RegistryService/GetModel".
            metadata: The metadata that came with it.
        """
        from opentelemetry.trace import (  # noqa: PLC0415 # an extra
            Status,
            StatusCode,
            use_span,
        )

        carrier = {key: str(value) for key, value in metadata if key in _CONTEXT_KEYS}
        service, _, name = method.lstrip("/").partition("/")
        span, _ = self.begin(
            method.lstrip("/"),
            carrier,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )
        # What an exception says may not leave the service, not as an event of a span either.
        with use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield span
            except Exception as error:
                reason = (
                    reason_name(error.reason)
                    if isinstance(error, ServiceError)
                    else type(error).__name__
                )
                span.set_attribute("podbay.reason", reason)
                span.set_status(Status(StatusCode.ERROR, reason))
                raise


_CONTEXT_KEYS = frozenset({"traceparent", "tracestate"})


def configured_spans(name: str) -> Spans | None:
    """Return spans where OpenTelemetry is installed and has a tracer provider.

    Args:
        name: Who makes the spans, as "podbay_inference_router".
    """
    try:
        from opentelemetry import trace  # noqa: PLC0415 # an extra
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 # as above
            TraceContextTextMapPropagator,
        )
    except ImportError:
        return None
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return Spans(trace.get_tracer(name), trace.SpanKind, TraceContextTextMapPropagator())
