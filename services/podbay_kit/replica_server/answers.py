"""How an answer travels: which media type, which bytes. No I/O."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from podbay.schema.jsontext import quick_dumps

__all__ = [
    "EVENT_STREAM",
    "JSON",
    "NDJSON",
    "Framing",
    "UnserializableAnswerError",
    "choose_framing",
    "encode_answer",
    "encode_json",
]

JSON = "application/json"
NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_STREAMED_TYPES = {EVENT_STREAM, NDJSON, "application/jsonl", "application/json-lines"}


class UnserializableAnswerError(Exception):
    """A mock answered something that JSON cannot say."""


@dataclass(frozen=True)
class Framing:
    """How the items of one streamed answer are written.

    Attributes:
        media_type: The answer's content type.
        prefix: What stands before an item's JSON.
        suffix: What stands after it.
        end: What is sent after the last item.
    """

    media_type: str
    prefix: bytes
    suffix: bytes
    end: bytes

    def frame(self, item: object) -> bytes:
        """Write one item.

        Raises:
            UnserializableAnswerError: If JSON cannot say it.
        """
        return self.prefix + encode_json(item) + self.suffix


_LINES = Framing(NDJSON, b"", b"\n", b"")
_EVENTS = Framing(EVENT_STREAM, b"data: ", b"\n\n", b"data: [DONE]\n\n")


def encode_json(value: object) -> bytes:
    r"""Write compact JSON in ASCII.

    ASCII, because then a line separator such as U+2028 inside a text never reads as the end of a
    line, and half of a surrogate pair can be written.

    Raises:
        UnserializableAnswerError: If JSON cannot say it.
    """
    quick = quick_dumps(value)
    if quick is not None:
        return quick
    try:
        return _encode(value).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise UnserializableAnswerError(f"the answer is not JSON: {error}") from error


def encode_answer(answer: object) -> tuple[str, bytes]:
    """Write an answer that is there as a whole: its media type and its bytes.

    A list is a list of answers, so it travels as several items, one a line.

    Raises:
        UnserializableAnswerError: If JSON cannot say it.
    """
    if isinstance(answer, (list, tuple)):
        return NDJSON, b"".join([_LINES.frame(item) for item in answer])
    return JSON, encode_json(answer)


def choose_framing(accept: Iterable[bytes]) -> Framing:
    """Choose between lines and events by the request's Accept headers.

    Events are sent to whoever names `text/event-stream` and prefers it, by quality and then by
    order, to a type of lines; lines are sent otherwise.
    """
    best: tuple[float, str] | None = None
    for name, quality in _media_ranges(accept):
        if name in _STREAMED_TYPES and quality > 0 and (best is None or quality > best[0]):
            best = quality, name
    return _EVENTS if best is not None and best[1] == EVENT_STREAM else _LINES


def _media_ranges(accept: Iterable[bytes]) -> Iterable[tuple[str, float]]:
    for header in accept:
        for element in header.decode("latin-1").split(","):
            name, *parameters = [part.strip().lower() for part in element.split(";")]
            yield name, _quality(parameters)


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0  # a preference that cannot be read is none
    return 1.0
