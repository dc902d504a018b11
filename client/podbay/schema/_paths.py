"""Paths of files that are valid on every system that may keep them."""

import re

__all__ = ["check_portable_path"]

_MAX_PATH_BYTES = 900
_MAX_SEGMENT_BYTES = 255
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\#?%<>:"|*]')
# Windows takes these for devices, whatever follows the first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE | re.DOTALL)


def check_portable_path(path: str) -> None:
    """Checks that a path is relative, has `/` between its parts, and is valid on every system.

    Raises:
        ValueError: It is not; the message says which rule it breaks, without the path.
    """
    if len(path.encode("utf-8", "surrogatepass")) > _MAX_PATH_BYTES:
        raise ValueError(f"the path is longer than {_MAX_PATH_BYTES} bytes")
    if _FORBIDDEN.search(path):
        raise ValueError('the path has a control character or one of \\ # ? % < > : " | *')
    for segment in path.split("/"):
        _check_segment(segment)


def _check_segment(segment: str) -> None:
    if segment in {"", ".", ".."}:
        raise ValueError("the path is not relative, or has an empty part, '.' or '..'")
    if len(segment.encode("utf-8", "surrogatepass")) > _MAX_SEGMENT_BYTES:
        raise ValueError(f"a part of the path is longer than {_MAX_SEGMENT_BYTES} bytes")
    if segment[-1] in " .":
        raise ValueError("a part of the path ends in a blank or a dot")
    if _DEVICE.fullmatch(segment):
        raise ValueError("a part of the path is the name of a device on Windows")
