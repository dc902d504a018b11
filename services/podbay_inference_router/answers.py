"""What an answer's head and bytes mean: pieces, a refusal, or nothing usable. Pure."""

import json
from typing import Final

from podbay_inference_router.framing import (
    EventFramer,
    Framer,
    FramingError,
    LineFramer,
    Piece,
    TextFramer,
    as_text,
)
from podbay_inference_router.jsontext import is_broken, is_json

__all__ = ["Answer", "AnswerError"]

_NOTHING: Final[list[Piece]] = []
_LINES: Final = frozenset({"application/x-ndjson", "application/jsonl", "application/ndjson"})
_EVENTS: Final = "text/event-stream"
_PLAIN: Final = "text/plain"
_NO_CONTENT: Final = frozenset({204, 205})

# What a content type stands for. Replicas send few different ones; the bound is for those who
# would send a new one each time.
_JSON, _OTHER, _LINE, _EVENT, _TEXT = range(5)
_kinds: dict[str, int] = {}
_MAX_KINDS: Final = 256


class AnswerError(Exception):
    """An answer cannot be passed on. The text says why and holds no data."""


def _kind_of(content_type: str) -> int:
    kind = _kinds.get(content_type)
    if kind is None:
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type == "application/json" or media_type.endswith("+json"):
            kind = _JSON
        elif media_type in _LINES:
            kind = _LINE
        elif media_type == _EVENTS:
            kind = _EVENT
        elif media_type == _PLAIN:
            kind = _TEXT
        else:
            kind = _OTHER
        if len(_kinds) >= _MAX_KINDS:
            _kinds.clear()
        _kinds[content_type] = kind
    return kind


def _charset_of(content_type: str) -> str:
    """Return the charset of a text: UTF-8 unless the content type says another.

    Raises:
        AnswerError: Nothing is known of it.
    """
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"')
            try:
                b"x".decode(charset, errors="replace")
            except (LookupError, ValueError):
                shown = json.dumps(charset[:100])
                raise AnswerError(f"its charset is {shown}, which is not known") from None
            return charset
    return "utf-8"


class Answer:
    """Takes one HTTP answer, part by part.

    Args:
        limit: The largest body of an answer that is one item, and the largest piece.
        error_limit: How much of a refusal's body is wanted.
    """

    __slots__ = (
        "_charset",
        "_chunks",
        "_coded",
        "_content_type",
        "_error_limit",
        "_framer",
        "_kind",
        "_limit",
        "_size",
        "location",
        "retry_after",
        "status",
    )

    def __init__(self, limit: int, error_limit: int) -> None:
        self._limit = limit
        self._error_limit = error_limit
        self._framer: Framer | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._kind = _OTHER
        self._content_type = ""
        self._charset = ""
        self._coded = False
        self.status = 0
        self.retry_after = ""
        self.location = ""

    @property
    def refused(self) -> bool:
        """Whether the status is not 2xx: `body` then tells why."""
        return not 200 <= self.status < 300

    @property
    def complete(self) -> bool:
        """Whether nothing more is wanted, although the HTTP answer may go on."""
        if self._framer is not None:
            return self._framer.ended
        return self.refused and self._size > self._error_limit

    @property
    def body(self) -> bytes:
        """What has come of a body that is not split into pieces; nothing of a compressed one."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    def head(
        self,
        status: int,
        content_type: str,
        encoding: str,
        retry_after: str,
        *,
        location: str = "",
        chunked: bool = False,
        pieces: bool = False,
    ) -> None:
        """Take the status and the headers that matter; "" for a header that is not there.

        Plain text that comes in chunks is text in pieces, and needs not be JSON.

        Args:
            status: The HTTP status.
            content_type: The header.
            encoding: The header Content-Encoding.
            retry_after: The header.
            location: The header.
            chunked: Whether the body comes in chunks.
            pieces: Whether pieces are wanted as they come.

        Raises:
            AnswerError: The body is encoded in a way that was not asked for, or its charset is not
                known.
        """
        self.status = status
        self.retry_after = retry_after
        self.location = location
        self._coded = bool(encoding) and encoding.lower() != "identity"
        if 200 <= status < 300:
            if self._coded:
                raise AnswerError("its body is compressed, which was not asked for")
            self._content_type = content_type
            kind = _kind_of(content_type)
            if kind == _TEXT and not chunked:
                kind = _OTHER
            self._kind = kind
            if kind == _LINE:
                self._framer = LineFramer(self._limit)
            elif kind == _EVENT:
                self._framer = EventFramer(self._limit)
            elif kind == _TEXT:
                self._charset = _charset_of(content_type)
                if pieces:
                    self._framer = TextFramer(self._charset)

    def feed(self, data: bytes) -> list[Piece]:
        """Take a part of the body and return the pieces that it completes.

        Raises:
            AnswerError: The answer, or one piece of it, is too large.
        """
        if self._framer is not None:
            try:
                return self._framer.feed(data)
            except FramingError as error:
                raise AnswerError(str(error)) from error
        self._size += len(data)
        if self._coded:
            return _NOTHING
        if self._size <= self._limit:
            self._chunks.append(data)
        elif not self.refused:
            raise AnswerError(f"it is larger than {self._limit} bytes")
        return _NOTHING

    def end(self, *, closed: bool = False) -> list[Piece]:
        """Take the end of a body that was not refused and return what is left.

        Args:
            closed: Whether only the end of the connection says that this is the end of the body.

        Raises:
            AnswerError: The body is not JSON and does not say what it is, the last piece is too
                large, or the body ends in the middle.
        """
        if self._framer is not None:
            try:
                return self._framer.end(closed=closed)
            except FramingError as error:
                raise AnswerError(str(error)) from error
        body = self.body
        if not body:
            if self.status in _NO_CONTENT:
                return []
            if self._kind == _TEXT:
                return [(as_text(""), "")]
            raise AnswerError(f"status {self.status} came with an empty body, which is not JSON")
        if self._kind == _JSON:
            if closed and is_broken(body):
                raise AnswerError("it ends in the middle of its JSON")
        elif not is_json(body):
            if self._kind == _TEXT:
                return [(as_text(body.decode(self._charset, errors="replace")), "")]
            shown = json.dumps(self._content_type[:100]) if self._content_type else "none"
            raise AnswerError(f"it is not JSON, and its content type is {shown}")
        return [(body, "")]
