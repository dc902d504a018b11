"""From the bytes of an answer to its pieces, whatever way the network cut them. Pure."""

import codecs
import json
from typing import Final, Protocol

from podbay_inference_router.jsontext import is_broken, is_json

__all__ = ["EventFramer", "Framer", "FramingError", "LineFramer", "Piece", "TextFramer", "as_text"]

Piece = tuple[bytes, str]
"""JSON text, and the name of the server-sent event that carried it ("" for none)."""

_BOM: Final = b"\xef\xbb\xbf"
_DONE: Final = b"[DONE]"


class FramingError(Exception):
    """The body cannot be split: a piece is larger than the limit, or the end is missing.

    The text says so for people and holds no data.
    """


class Framer(Protocol):
    """Splits a body into pieces."""

    @property
    def ended(self) -> bool:
        """Whether the body itself said that nothing follows (`[DONE]`)."""

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes and return the pieces that they complete."""

    def end(self, *, closed: bool = False) -> list[Piece]:
        """Take the end of the body and return the piece that was open.

        Args:
            closed: Whether only the end of the connection says that this is the end of the body.

        Raises:
            FramingError: The body ends in the middle of a piece.
        """


def as_text(text: str) -> bytes:
    """Return a text as JSON."""
    return json.dumps(text, ensure_ascii=False).encode()


class TextFramer:
    """Splits plain text into what has come so far, never in the middle of a character.

    Args:
        charset: How the text is encoded, by a name that Python knows.
    """

    ended = False

    def __init__(self, charset: str = "utf-8") -> None:
        self._decoder = codecs.getincrementaldecoder(charset)("replace")

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes and return them as one JSON text."""
        text = self._decoder.decode(data)
        return [(as_text(text), "")] if text else []

    def end(self, *, closed: bool = False) -> list[Piece]:  # noqa: ARG002 # a text has no end
        """Return what was left of a character."""
        text = self._decoder.decode(b"", final=True)
        return [(as_text(text), "")] if text else []


class _Held:
    """The beginning of a line whose end has not come yet.

    It is kept in parts, so that a line that comes in many small reads is joined once.
    """

    __slots__ = ("_limit", "_parts", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> None:
        if data:
            self._parts.append(data)
            self.size += len(data)
            if self.size > self._limit:
                raise FramingError(f"a piece is larger than {self._limit} bytes")

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self.size = 0
        return data


class LineFramer:
    """Newline-delimited JSON: a piece is a line that is not blank.

    Args:
        limit: The largest piece in bytes.
    """

    __slots__ = ("_held", "_limit", "ended")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = _Held(limit)
        self.ended = False

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes and return the pieces that they complete.

        Raises:
            FramingError: A line is larger than the limit.
        """
        if b"\n" not in data:
            self._held.add(data)
            return []
        lines = data.split(b"\n")
        if self._held.size:
            self._held.add(lines[0])
            lines[0] = self._held.take()
        self._held.add(lines.pop())
        pieces: list[Piece] = []
        for line in lines:
            text = line.strip(b" \t\r")
            if len(text) > self._limit:
                raise FramingError(f"a piece is larger than {self._limit} bytes")
            if text:
                pieces.append((text, ""))
        return pieces

    def end(self, *, closed: bool = False) -> list[Piece]:  # noqa: ARG002 # a cut line shows itself
        """Take the end of the body: the last line needs no newline.

        Raises:
            FramingError: The last line is cut off.
        """
        text = self._held.take().strip(b" \t\r")
        if text and is_broken(text):
            raise FramingError("it ends in the middle of a line")
        return [(text, "")] if text else []


class EventFramer:
    """Server-sent events: a piece is an event's data.

    Lines may end with LF, CR LF or CR. Data of several lines is joined with newlines. Data that is
    not JSON becomes a JSON string. `[DONE]` ends the body. Comments, `id` and `retry` carry nothing
    that a caller could use here.

    Args:
        limit: The largest piece in bytes.
    """

    __slots__ = ("_after_cr", "_data", "_data_size", "_event", "_held", "_limit", "_start", "ended")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = _Held(limit + 16)  # a line is a piece and its field's name
        self._start = True
        self._after_cr = False
        self._data: list[bytes] = []
        self._data_size = 0
        self._event = ""
        self.ended = False

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes and return the pieces that they complete.

        Raises:
            FramingError: An event is larger than the limit.
        """
        if self.ended or not data:
            return []
        if self._after_cr or b"\r" in data:
            data = self._unify(data)
        if self._start:
            self._held.add(data)
            data = self._held.take()
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._held.add(data)
                return []
            self._start = False
            data = data.removeprefix(_BOM)
        if b"\n" not in data:
            self._held.add(data)
            return []
        lines = data.split(b"\n")
        if self._held.size:
            self._held.add(lines[0])
            lines[0] = self._held.take()
        self._held.add(lines.pop())
        pieces: list[Piece] = []
        for line in lines:
            if line:
                self._take_field(line)
            elif self._data:
                self._close_event(pieces)
                if self.ended:
                    break
            else:
                self._event = ""
        return pieces

    def end(self, *, closed: bool = False) -> list[Piece]:
        """Take the end of the body: an event that was open is complete, as far as one can see.

        Raises:
            FramingError: The connection ended in the middle of an event.
        """
        pieces: list[Piece] = []
        if not self.ended:
            line = self._held.take()
            if line:
                self._take_field(line)
            if self._data:
                if closed and not self._seems_whole():
                    raise FramingError("it ends in the middle of an event")
                self._close_event(pieces)
        return pieces

    def _seems_whole(self) -> bool:
        """Whether the data of the open event are a JSON value, or the end of all events."""
        data = b"\n".join(self._data)
        return data.strip() == _DONE or is_json(data)

    def _unify(self, data: bytes) -> bytes:
        """Turn CR LF and CR into LF; a CR at the end may have its LF in the next bytes."""
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
        if data:
            self._after_cr = data[-1:] == b"\r"
        else:
            self._after_cr = False
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if name == b"data":
            self._data.append(value)
            self._data_size += len(value) + 1
            if self._data_size > self._limit + 1:
                raise FramingError(f"an event is larger than {self._limit} bytes")
        elif name == b"event":
            self._event = value.decode(errors="replace")

    def _close_event(self, pieces: list[Piece]) -> None:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event = self._event
        self._data = []
        self._data_size = 0
        self._event = ""
        if data.strip() == _DONE:
            self.ended = True
        elif is_json(data):
            pieces.append((data, event))
        else:
            text = json.dumps(data.decode(errors="replace"), ensure_ascii=False)
            pieces.append((text.encode(), event))
