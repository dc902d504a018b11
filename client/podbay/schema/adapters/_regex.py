"""Regular expressions: compiled when the adapter is built, and never running for ever."""

import re
from typing import Any

from podbay.schema.adapters._errors import (
    AdapterRunError,
    ItemPatternError,
    ItemTypeError,
    json_type,
    quoted,
    run_error_type,
)
from podbay.schema.adapters._regex_cost import safe_length
from podbay.schema.adapters._regex_guard import apply_guarded
from podbay.schema.adapters._regex_worker import apply

# These print, or do nothing but warn; neither changes what matches.
_IGNORED_FLAGS = re.DEBUG.value | 1  # 1 is TEMPLATE, which newer versions no longer know


class Regex:
    """A regular expression, or the reason why it is none.

    What is wrong with it is known at once, and is raised when it is applied, as ever.

    Attributes:
        problem: What is wrong with the pattern; empty if nothing is.
    """

    __slots__ = ("_failure", "_pattern", "_safe", "_seconds", "problem")

    def __init__(self, pattern: Any, flags: Any, seconds: float) -> None:
        """Compiles a pattern.

        Args:
            pattern: In the syntax of Python's `re`.
            flags: The sum of the values of Python's flags.
            seconds: The longest time for one application.
        """
        self._seconds = seconds
        self._failure: type[AdapterRunError] = ItemPatternError
        self.problem = ""
        try:
            self._pattern = _compile(pattern, flags)
        except re.error as failure:
            where = "" if failure.pos is None else f" at position {failure.pos}"
            self.problem = f"{quoted(pattern)} is no regular expression: {failure.msg}{where}"
        except (TypeError, ValueError, OverflowError, RecursionError) as failure:
            self._failure = run_error_type(failure)
            self.problem = f"{quoted(pattern)} with the flags {quoted(flags)} cannot be compiled"
        else:
            self._safe = safe_length(self._pattern)

    def apply(self, operation: str, text: Any, *arguments: Any) -> Any:
        """Applies the pattern: see `_regex_worker.apply`.

        Raises:
            AdapterRunError: The pattern or an argument is not valid, or it takes too long.
        """
        if self.problem:
            raise self._failure(self.problem)
        if not isinstance(text, str):
            if operation == "sub":
                # A replacement that is not valid fails first, whatever it is applied to.
                apply(operation, self._pattern, "", list(arguments))
            raise ItemTypeError(f"needs a string, not {json_type(text)}")
        if len(text) <= self._safe:
            return apply(operation, self._pattern, text, list(arguments))
        return apply_guarded(operation, self._pattern, text, list(arguments), self._seconds)


def _compile(pattern: Any, flags: Any) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise TypeError
    if not isinstance(flags, int):
        raise TypeError
    return re.compile(pattern, flags & ~_IGNORED_FLAGS)
