"""From the adapters of a row to one function that does what all of them do.

The function is written as lines of Python and compiled. Python calls nothing between two adapters,
copies an item once for all of them, and has no line that only looks for failures. So a row costs
little more than what its adapters do.

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
    exec(compile(source, "<adapters>", "exec"), names)  # noqa: S102 - see above: no text from outside
    return Row(names["run"], names["collect"])
