"""The operations on regular expressions, and the process that does them under a time limit.

Python cannot stop a regular expression that has begun; a process can be ended. This file is run
by its path as that process, so it imports nothing but the standard library.
"""

import json
import re
import sys
from typing import Any, TextIO

_FAILURES = (
    re.error,
    ValueError,
    TypeError,
    IndexError,
    RecursionError,
    OverflowError,
    MemoryError,
)


def apply(operation: str, pattern: re.Pattern[str], text: str, arguments: list[Any]) -> Any:
    """Applies a pattern to a text.

    Args:
        operation: `findall`, `search`, `split` or `sub`.
        pattern: The compiled pattern.
        text: What it is applied to.
        arguments: For `search` the group; for `split` the greatest number of splits; for `sub` the
            replacement and the greatest number of replacements.

    Returns:
        Lists and texts; for `search` a list that is empty without a match, and else has the group.
    """
    if operation == "findall":
        return pattern.findall(text)
    if operation == "search":
        found = pattern.search(text)
        return [] if found is None else [found.group(*arguments)]
    if operation == "split":
        return pattern.split(text, *arguments)
    return pattern.sub(arguments[0], text, *arguments[1:])


def answer(line: str) -> str:
    """Does what one line asks for, and returns the line that answers it."""
    operation, pattern, flags, text, arguments = json.loads(line)
    try:
        return json.dumps({"result": apply(operation, re.compile(pattern, flags), text, arguments)})
    except _FAILURES as failure:
        return json.dumps({"error": type(failure).__name__})


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answers line by line, until there are no more; the first line says that it is ready."""
    answers.write("ready\n")
    answers.flush()
    for line in requests:
        answers.write(answer(line) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
