"""The trace that a call belongs to, where the program uses OpenTelemetry.

Nothing is imported for that: a program that has no span has not imported OpenTelemetry either.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["current_trace", "trace_metadata"]

_NO_TRACE = ("", "")


def current_trace() -> tuple[str, str]:
    """Return traceparent and tracestate of the current span, as W3C writes them; "" for none."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return _NO_TRACE
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return _NO_TRACE
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return parent, context.trace_state.to_header()


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata that carry the current span's context; empty for none."""
    parent, state = current_trace()
    if not parent:
        return ()
    if not state:
        return (("traceparent", parent),)
    return (("traceparent", parent), ("tracestate", state))
