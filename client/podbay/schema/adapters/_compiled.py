"""From adapters to functions that are written for just these, as lines of Python.

A row of adapters becomes one function. It calls nothing between two of them, and copies an item
once for all of them, so it costs little more than what they do.

No part of a specification gets into the lines: they name objects, as `c0`, that they are given.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from podbay.schema.adapters._stages import Stage

Explain = Callable[[Exception, int, Any], Exception]
"""Makes the error for what an adapter raised, of its position in the row and its item."""

_RUN = """
def run(items):
    for value in items:
        try:
{lines}
        except failures as failure:
            raise explain(failure, at, value) from None
        yield value
"""
_COLLECT = """
def collect(items):
    made = []
    for value in items:
        try:
{lines}
        except failures as failure:
            raise explain(failure, at, value) from None
        made.append(value)
    return made
"""


_RECORDS = """
def records(rest, rows):
    for {values}, in rows:
        record = rest.copy()
{lines}
        yield record
"""


class Row(NamedTuple):
    """The functions of a row of adapters, each of which makes one item of each item.

    Attributes:
        run: From items to their outputs, lazily.
        collect: From items to a list of their outputs.
    """

    run: Callable[[Iterable[Any]], Iterator[Any]]
    collect: Callable[[Iterable[Any]], list[Any]]


def compile_row(
    stages: Sequence[Stage], failures: tuple[type[Exception], ...], explain: Explain
) -> Row:
    """Compiles a row.

    Args:
        stages: Each with `one` or `lines`.
        failures: What their functions and lines may raise for an item.
        explain: Makes the error that is raised instead.
    """
    names: dict[str, Any] = {"failures": failures, "explain": explain}

    def bind(constant: Any) -> str:
        name = f"c{len(names)}"
        names[name] = constant
        return name

    lines = ["pass"]
    copied = False
    for at, stage in enumerate(stages):
        lines.append(f"at = {at}")
        if stage.lines is not None:
            lines += stage.lines(bind, copied)
        else:
            lines.append(f"value = {bind(stage.one)}(value)")
        copied = stage.copies
    indented = "\n".join(f"            {line}" for line in lines)
    source = (_RUN + _COLLECT).format(lines=indented)
    _define(source, names)
    return Row(names["run"], names["collect"])


def compile_records(
    names: Sequence[Any],
) -> Callable[[dict[Any, Any], Iterable[tuple[Any, ...]]], Iterator[dict[Any, Any]]]:
    """Compiles the function that makes a record of each row of values.

    Args:
        names: The names of the values of a row, one or more.

    Returns:
        From the members that all records share, and the rows, to the records.
    """
    bound = {f"c{at}": name for at, name in enumerate(names)}
    values = ", ".join(f"v{at}" for at in range(len(names)))
    lines = "\n".join(f"        record[c{at}] = v{at}" for at in range(len(names)))
    _define(_RECORDS.format(values=values, lines=lines), bound)
    made: Callable[..., Iterator[dict[Any, Any]]] = bound["records"]
    return made


def _define(source: str, names: dict[str, Any]) -> None:
    """Defines the functions of a source among the names that it may use."""
    exec(compile(source, "<adapters>", "exec"), names)  # noqa: S102 - no text from outside: see above
