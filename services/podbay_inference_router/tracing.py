"""The trace context of a call, on its way from the caller to the replica. Pure."""

import re
from typing import Final

__all__ = ["trace_lines"]

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
