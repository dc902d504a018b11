"""Mock services: classes that stand in for a real system behind the same interface.

A mock is a class with a constructor without arguments, the properties `schema` and `interface`,
and a method `infer`. `TextCompletion` answers like a text model; `StreamingTextCompletion` does so
piece by piece; `Echo` gives back what it gets; `Slow`, `Flaky` and `LateStart` misbehave on
purpose, so that you can see what your program makes of it.

A mock runs as a replica, in a process of its own. Settings therefore come from environment
variables, read by the constructor, or from class attributes of a subclass. A variable wins over an
attribute:

| variable                       | attribute       | used by                          |
|--------------------------------|-----------------|----------------------------------|
| `PODBAY_MOCK_SEED`             | `seed`          | the completions, `Flaky`         |
| `PODBAY_MOCK_DELAY_SECONDS`    | `delay`         | `StreamingTextCompletion`        |
| `PODBAY_MOCK_SLOW_SECONDS`     | `seconds`       | `Slow`                           |
| `PODBAY_MOCK_FAILURE_RATE`     | `failure_rate`  | `Flaky`                          |
| `PODBAY_MOCK_START_SECONDS`    | `start_seconds` | `LateStart`                      |
"""

import abc
import asyncio
import functools
import os
import random
import re
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

if TYPE_CHECKING:
    from podbay.schema.platform import DataSchema, InferenceInterface

__all__ = [
    "Echo",
    "Flaky",
    "LateStart",
    "Mock",
    "Slow",
    "StreamingTextCompletion",
    "TextCompletion",
    "mock_name",
]

_N = TypeVar("_N", int, float)

_LONGEST_WAIT = 86400.0  # a day, in seconds


class Mock(abc.ABC):
    """What a mock has. Deriving from it is convenient, not required.

    Attributes:
        endpoint: Where requests are posted, without the leading slash.
        concurrency: Where `infer` runs, if it is a plain method: `"threads"` when it may block
            (several calls then run at once, so it must be safe for threads), `"inline"` when it is
            instant. A coroutine function, or an asynchronous generator, always runs in the event
            loop, and is cancelled when the client leaves.
    """

    endpoint: ClassVar[str] = "generate"
    concurrency: ClassVar[Literal["threads", "inline"]] = "threads"

    @property
    def schema(self) -> "DataSchema":
        """The schema of the answers: text, unless a subclass says otherwise."""
        return _text_schema()

    @property
    def interface(self) -> "InferenceInterface":
        """How the mock is called: its endpoint and its schema, without adapters."""
        # Here, and not at the top: a replica needs no schema, and starts twice as fast without.
        from podbay.schema.platform import InferenceInterface  # noqa: PLC0415 - see above

        return InferenceInterface(endpoint=self.endpoint, outputSchema=self.schema)

    @abc.abstractmethod
    def infer(self, endpoint: str, request: Any) -> Any:
        """Answer one request.

        Args:
            endpoint: Where it was posted, without the leading slash.
            request: The request, as parsed JSON.

        Returns:
            A list of answers, one answer, or an iterator (plain or asynchronous; a generator, for
            example) of an answer's pieces; or an awaitable of any of these.

        Raises:
            ValueError, KeyError, TypeError: If the request is not what the mock takes; the caller
                gets the text. Of any other exception the caller gets the type only.
        """

    def _check_endpoint(self, endpoint: str) -> None:
        if endpoint != self.endpoint:
            raise ValueError(f"there is no endpoint {endpoint!r}, only {self.endpoint!r}")


class _Completion(Mock):
    """What both completions share.

    Attributes:
        seed: Where the random choices start; None makes them differ from run to run.
        random: The generator of this mock's choices; seed it to repeat them.
    """

    concurrency: ClassVar[Literal["threads", "inline"]] = "inline"
    seed: ClassVar[int | None] = None

    def __init__(self) -> None:
        self.random = _seeded(self.seed)

    def _complete(self, text: str) -> str:
        case = self.random.randrange(len(_PHRASES) + 1)
        if case < len(_PHRASES):
            return text + _PHRASES[case]
        words = text.split()
        if not words or self.random.random() < 0.5:
            return text + _LAST_PHRASE
        quoted = " ".join(words[-self.random.randint(1, 3) :]).upper()
        return f'{text} Did you say "{quoted}"?'

    def _text(self, endpoint: str, request: Any) -> str:
        self._check_endpoint(endpoint)
        if not isinstance(request, dict):
            raise TypeError(f"the request is of type {type(request).__name__}, not an object")
        text = request["text"]
        if not isinstance(text, str):
            raise TypeError(f"text is of type {type(text).__name__}, not a string")
        return text


_PHRASES = (
    " The crew is asleep, so I will keep my voice down.",
    " I have checked the antenna twice and found nothing wrong with it.",
    " My instructions for this mission say otherwise.",
    " Shall we finish our game of chess first?",
)
_LAST_PHRASE = " I would rather not discuss it any further."


class TextCompletion(_Completion):
    """Completes a text: two answers to each request, each drawn on its own.

    Takes `{"text": ...}` at `generate` and answers two objects `{"text": ...}`: the text and one
    of five endings. Four are fixed phrases, the fifth is a phrase or a question that quotes the
    last one to three words. Other members of a request are not looked at.

    Attributes:
        seed: Where the random choices start; None (the default) makes them differ from run to run.
    """

    def infer(self, endpoint: str, request: Any) -> list[dict[str, str]]:
        """Complete `request["text"]` twice.

        Raises:
            ValueError: If the endpoint is another.
            KeyError: If the request has no `text`.
            TypeError: If the request is not an object, or its text not a string.
        """
        text = self._text(endpoint, request)
        return [{"text": self._complete(text)} for _ in range(2)]


class StreamingTextCompletion(_Completion):
    """Completes a text, word by word.

    Takes what `TextCompletion` takes, and yields objects `{"text": piece}`. The pieces joined are
    one completion: the text and its ending.

    Attributes:
        delay: The seconds before each piece but the first.
        seed: As of `TextCompletion`.
    """

    delay: ClassVar[float] = 0.02

    def __init__(self) -> None:
        super().__init__()
        self._delay = _setting("PODBAY_MOCK_DELAY_SECONDS", self.delay, 0.0, _LONGEST_WAIT)

    async def infer(self, endpoint: str, request: Any) -> AsyncIterator[dict[str, str]]:
        """Yield the completion of `request["text"]`.

        Raises:
            ValueError: If the endpoint is another.
            KeyError: If the request has no `text`.
            TypeError: If the request is not an object, or its text not a string.
        """
        completion = self._complete(self._text(endpoint, request))
        for index, piece in enumerate(re.findall(r"\s*\S+\s*$|\s*\S+", completion)):
            if index:
                await asyncio.sleep(self._delay)
            yield {"text": piece}


class Echo(Mock):
    """Gives back the request, as one answer."""

    endpoint: ClassVar[str] = "echo"
    concurrency: ClassVar[Literal["threads", "inline"]] = "inline"

    def infer(self, endpoint: str, request: Any) -> Any:
        """Give back the request.

        Raises:
            ValueError: If the endpoint is another.
        """
        self._check_endpoint(endpoint)
        # A list would travel as several answers.
        return [request] if isinstance(request, list) else request


class Slow(Mock):
    """Answers after a while; a call that is cancelled stops waiting.

    Takes `{"seconds": ...}` at `slow`, or anything, and answers `{"seconds": ...}`: how long it
    waited.

    Attributes:
        seconds: How long a request without the member `seconds` takes.
    """

    endpoint: ClassVar[str] = "slow"
    seconds: ClassVar[float] = 1.0

    def __init__(self) -> None:
        self._seconds = _setting("PODBAY_MOCK_SLOW_SECONDS", self.seconds, 0.0, _LONGEST_WAIT)

    async def infer(self, endpoint: str, request: Any) -> dict[str, float]:
        """Wait, then answer.

        Raises:
            ValueError: If the endpoint is another, or `seconds` is negative or more than a day.
            TypeError: If `seconds` is not a number.
        """
        self._check_endpoint(endpoint)
        seconds = self._seconds
        if isinstance(request, dict) and "seconds" in request:
            seconds = request["seconds"]
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                raise TypeError(f"seconds is of type {type(seconds).__name__}, not a number")
            if not 0 <= seconds <= _LONGEST_WAIT:
                raise ValueError(f"seconds is not between 0 and {_LONGEST_WAIT:g}")
        await asyncio.sleep(seconds)
        return {"seconds": seconds}


class Flaky(Mock):
    """Fails at a rate, with HTTP status 500; answers like `Echo` otherwise, at `flaky`.

    Attributes:
        failure_rate: The share of calls that fail, from 0 to 1.
        seed: Where the random choices start; None makes them differ from run to run.
    """

    endpoint: ClassVar[str] = "flaky"
    concurrency: ClassVar[Literal["threads", "inline"]] = "inline"
    failure_rate: ClassVar[float] = 0.5
    seed: ClassVar[int | None] = None

    def __init__(self) -> None:
        self._failure_rate = _setting("PODBAY_MOCK_FAILURE_RATE", self.failure_rate, 0.0, 1.0)
        self.random = _seeded(self.seed)

    def infer(self, endpoint: str, request: Any) -> Any:
        """Fail, or give back the request.

        Raises:
            ValueError: If the endpoint is another.
            RuntimeError: At the rate that is set.
        """
        self._check_endpoint(endpoint)
        if self.random.random() < self._failure_rate:
            raise RuntimeError("this mock fails now and then, and did")
        return [request] if isinstance(request, list) else request


class LateStart(Echo):
    """Is ready only after a while: its constructor takes that long. Answers like `Echo`.

    Attributes:
        start_seconds: How long the constructor takes. 0 unless set, because a class is also built
            to ask for its interface.
    """

    start_seconds: ClassVar[float] = 0.0

    def __init__(self) -> None:
        time.sleep(_setting("PODBAY_MOCK_START_SECONDS", self.start_seconds, 0.0, _LONGEST_WAIT))


def mock_name(mock_type: type, *, allow_main: bool = False) -> str:
    """Give the import path of a mock's class: the name of its service.

    Args:
        mock_type: The class.
        allow_main: Also take a class of the main script, which only the same process can import.

    Raises:
        TypeError: If it is not a class.
        ValueError: If no other process can import it.
    """
    if not isinstance(mock_type, type):
        raise TypeError(f"a mock is a class, not an object of type {type(mock_type).__name__}")
    module, name = mock_type.__module__, mock_type.__qualname__
    if "<locals>" in name:
        raise ValueError(
            f"{name} is defined inside a function, where a replica cannot import it; "
            "move it to the top of its module"
        )
    if module == "__main__" and not allow_main:
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is None:
            raise ValueError(
                f"{name} is defined in the main script, which a replica cannot import; "
                "move it into a module"
            )
        module = spec.name  # the script was started as `python -m module`
    return f"{module}.{name}"


@functools.cache
def _text_schema() -> "DataSchema":
    from podbay.schema.platform import DataSchema  # noqa: PLC0415 - a replica starts without it

    return DataSchema.make_output_schema("text.Text")


def _seeded(default: int | None) -> random.Random:
    seed = default
    if os.environ.get("PODBAY_MOCK_SEED"):
        seed = _number("PODBAY_MOCK_SEED", int)
    return random.Random(seed)  # noqa: S311 - a mock's choices protect nothing


def _setting(name: str, default: float, least: float, most: float) -> float:
    value = _number(name, float) if os.environ.get(name) else default
    if not least <= value <= most:
        raise ValueError(f"{name} is {value:g}, not from {least:g} to {most:g}")
    return value


def _number(name: str, kind: type[_N]) -> _N:
    text = os.environ[name]
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} is {text!r}, not {what}") from error
