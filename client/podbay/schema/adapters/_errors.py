"""The errors of adapters.

    AdapterError
    ├── AdapterConfigurationError        building: the specification is at fault
    │   ├── Configuration…Error          each also of the built-in type that fits
    │   └── JSONPathError
    │       ├── JsonPathLexerError
    │       └── JsonPathParserError
    └── AdapterRunError                  running: the item does not fit the specification
        ├── Item…Error                   each also of the built-in type that fits
        ├── PatternTimeoutError
        ├── PatternGuardError
        └── EnvelopeError

The second base of a class is what other implementations of the adapters raise in the same place,
so code that catches `KeyError` or `ValueError` goes on working. Texts quote the configuration,
shortened, and describe items by their type only: what an item holds never gets into an error.
"""

import binascii
import re
from typing import Any, Final, Self

_LONGEST_QUOTE = 120  # characters of the configuration in one message


class AdapterError(Exception):
    """Something is wrong with an adapter, or with an item given to it.

    Attributes:
        message: What is wrong, without the place.
        step: The position of the adapter in its pipeline, from 0; None outside of a pipeline.
        kind: The kind of the adapter, with the kinds inside of it, as "Map > Select".
        path: The place within the adapter's specification, as "configuration.fields".
        reason: "ADAPTER_FAILED", out of the catalogue of reasons.
        hint: The way out.
    """

    reason: Final = "ADAPTER_FAILED"
    hint: Final = "Mend the item, or the pipeline of the service's interface."

    def __init__(
        self, message: str, *, path: str = "", kind: str = "", step: int | None = None
    ) -> None:
        # Nothing by super(): Exception keeps its arguments without, and it takes half of the time.
        self.message = message
        self.step = step
        self.kind = kind
        self._path = path

    @property
    def path(self) -> str:
        """The place within the adapter's specification, as "configuration.fields"."""
        return self._path.removeprefix(".")

    @property
    def metadata(self) -> dict[str, str]:
        """The evidence: "step", "kind" and "path", where they are known."""
        place = {"step": self.step, "kind": self.kind, "path": self.path}
        return {key: str(value) for key, value in place.items() if value not in (None, "")}

    def within(self, path: str) -> Self:
        """Puts the place that is known so far into a larger one, and returns the error."""
        self._path = path + self._path
        return self

    def of_kind(self, kind: str) -> Self:
        """Names the adapter around the place that is known so far, and returns the error."""
        self.kind = f"{kind} > {self.kind}" if self.kind else kind
        return self

    def at_step(self, step: int | None) -> Self:
        """Says which step of the pipeline it is, and returns the error."""
        self.step = step
        return self

    def __str__(self) -> str:
        kind = self.kind or "?"
        who = f"Adapter {kind}" if self.step is None else f"Adapter {self.step} ({kind})"
        where = f", {self.path}" if self.path else ""
        return f"{who}{where}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message,), self.__dict__.copy())


class AdapterConfigurationError(AdapterError):
    """An adapter cannot be built from its specification."""


class ConfigurationValueError(AdapterConfigurationError, ValueError):
    """A value in the configuration is of the right type and makes no sense."""


class ConfigurationKeyError(AdapterConfigurationError, KeyError):
    """A member of the specification is missing, or names something unknown."""


class ConfigurationTypeError(AdapterConfigurationError, TypeError):
    """A value in the configuration is of the wrong type, or there is no configuration."""


class ConfigurationAttributeError(AdapterConfigurationError, AttributeError):
    """A value in the configuration is not an object where one is needed."""


class ConfigurationDepthError(AdapterConfigurationError, RecursionError):
    """The configuration is nested too deeply."""


class JSONPathError(AdapterConfigurationError):
    """A query is not valid. Not a ValueError, as in the original."""


class JsonPathLexerError(JSONPathError):
    """A query holds a character, or an unfinished quotation, that begins nothing."""


class JsonPathParserError(JSONPathError):
    """The parts of a query are in an order that means nothing."""


class AdapterRunError(AdapterError):
    """An adapter cannot be applied to an item."""


class ItemValueError(AdapterRunError, ValueError):
    """A value of the item is not usable, or a query matches none or several."""


class ItemKeyError(AdapterRunError, KeyError):
    """The item lacks a member."""


class ItemIndexError(AdapterRunError, IndexError):
    """A position or a group does not exist."""


class ItemTypeError(AdapterRunError, TypeError):
    """A value is of a type that cannot be worked with."""


class ItemAttributeError(AdapterRunError, AttributeError):
    """The item, or a part of it, is not an object where one is needed."""


class ItemAssertionError(AdapterRunError, AssertionError):
    """The configuration asks for nothing that could be done."""


class ItemNotImplementedError(AdapterRunError, NotImplementedError):
    """A query uses an operator that can be written, but has no meaning."""


class ItemDepthError(AdapterRunError, RecursionError):
    """The item or the configuration is nested too deeply."""


class ItemOverflowError(AdapterRunError, OverflowError):
    """A number is too large."""


class ItemMemoryError(AdapterRunError, MemoryError):
    """The output would be larger than the memory."""


class ItemPatternError(AdapterRunError, re.error):
    """A regular expression or its replacement is not valid."""


class ItemBase64Error(AdapterRunError, binascii.Error):
    """A text is not base64."""


class PatternTimeoutError(AdapterRunError, TimeoutError):
    """A regular expression took longer than it may."""


class PatternGuardError(AdapterRunError, RuntimeError):
    """A regular expression that needs a time limit cannot be given one here."""


class EnvelopeError(AdapterRunError, ValueError):
    """An item has the member `$fileUpload` without being the envelope of an upload."""


# More specific types first: binascii.Error is a ValueError, a KeyError is a LookupError.
_RUN_TYPES: tuple[tuple[type[Exception], type[AdapterRunError]], ...] = (
    (binascii.Error, ItemBase64Error),
    (KeyError, ItemKeyError),
    (IndexError, ItemIndexError),
    (TypeError, ItemTypeError),
    (AttributeError, ItemAttributeError),
    (ValueError, ItemValueError),
    (AssertionError, ItemAssertionError),
    (NotImplementedError, ItemNotImplementedError),
    (RecursionError, ItemDepthError),
    (OverflowError, ItemOverflowError),
    (MemoryError, ItemMemoryError),
    (re.error, ItemPatternError),
)
_EXACT_RUN_TYPES = dict(_RUN_TYPES)
RUN_FAILURES = tuple(builtin for builtin, _ in _RUN_TYPES)
"""What Python raises when an adapter is applied to an item that does not fit."""


def run_error_type(failure: Exception) -> type[AdapterRunError]:
    """Returns our type for what Python raised: one of `RUN_FAILURES`."""
    exactly = _EXACT_RUN_TYPES.get(type(failure))
    if exactly is not None:
        return exactly
    for builtin, ours in _RUN_TYPES:
        if isinstance(failure, builtin):
            return ours
    return AdapterRunError


def quoted(text: object) -> str:
    """Quotes something of the configuration, shortened to what fits a message."""
    quote = repr(text)
    if len(quote) <= _LONGEST_QUOTE:
        return quote
    return quote[:_LONGEST_QUOTE] + "…"


def json_type(value: object) -> str:
    """Describes a value by its type, in the words of JSON, with an article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    for types, name in _TYPE_NAMES:
        if isinstance(value, types):
            return name
    return "not a JSON value"


_TYPE_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (dict, "an object"),
    ((list, tuple), "an array"),
    (str, "a string"),
    ((int, float), "a number"),
    (bytes, "bytes"),
)


def member_path(name: object) -> str:
    """Returns the part of a place that names one member of an object."""
    if isinstance(name, str) and name.replace("$", "_").replace("-", "_").isidentifier():
        return f".{name}"
    return f"[{quoted(name)}]"
