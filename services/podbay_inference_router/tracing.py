"""The trace context of a call, on its way from the caller to the replica. Pure."""

import re
from typing import Any, Final, NamedTuple, Protocol

__all__ = ["NO_TRACE", "CallSpans", "CallTrace", "begin_trace", "trace_lines"]

_PARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
# What RFC 9110 allows in a header, without the tab: nothing in it can end the line.
_STATE: Final = re.compile(r"[\x20-\x7e]{1,512}")


def trace_lines(traceparent: str, tracestate: str) -> bytes:
    """Return the lines of a request's head that carry a trace context on.

    Args:
        traceparent: The context, as W3C writes it; "" for none. One that is not of that form is
            left out, as W3C says.
        tracestate: What the vendors add; "" for nothing.
    """
    if not traceparent or not _PARENT.fullmatch(traceparent):
        return b""
    lines = f"traceparent: {traceparent}\r\n"
    if tracestate and _STATE.fullmatch(tracestate):
        lines += f"tracestate: {tracestate}\r\n"
    return lines.encode("ascii")


class CallTrace(NamedTuple):
    """The trace of a call."""

    span: object | None = None
    """Its span; None where calls are not traced."""
    lines: bytes = b""
    """The lines of the request's head that carry the context on."""


NO_TRACE: Final = CallTrace()


class CallSpans(Protocol):
    """Makes spans of calls; `podbay_kit.tracing.Spans` does."""

    def begin(
        self, name: str, carrier: dict[str, str], attributes: dict[str, str]
    ) -> tuple[Any, dict[str, str]]:
        """Begin a span; return it, and the carrier that leads on from it."""
        ...

    def end(self, span: Any, error: str, attributes: dict[str, str]) -> None:
        """End a span."""
        ...


def begin_trace(
    spans: CallSpans | None, traceparent: str, tracestate: str, session_id: str, endpoint: str
) -> CallTrace:
    """Begin the trace of a call.

    Args:
        spans: Makes spans; None where nobody wants them, and the context passes as it came.
        traceparent: The caller's context, as W3C writes it; "" for none.
        tracestate: What the vendors add to it; "" for nothing.
        session_id: The session.
        endpoint: The path at the replica.

    Returns:
        The trace.
    """
    if spans is None:
        if not traceparent:
            return NO_TRACE
        return CallTrace(None, trace_lines(traceparent, tracestate))
    span, onward = spans.begin(
        "podbay.call",
        {"traceparent": traceparent, "tracestate": tracestate},
        {"podbay.session": session_id, "podbay.endpoint": endpoint},
    )
    lines = trace_lines(onward.get("traceparent", ""), onward.get("tracestate", ""))
    return CallTrace(span, lines)
