"""Tables for people, JSON for programs, and neither colours nor progress where nobody watches."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from rich.console import Console

    from podbay.types import TransferProgress

__all__ = [
    "Progress",
    "age",
    "console",
    "details",
    "entity_json",
    "progress",
    "table",
    "transfer",
    "write_json",
]


def entity_json(value: Any) -> Any:
    """Return a resource in the platform's JSON form: camelCase, without fields that are null."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value):
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {_camel(name): entity_json(item) for name, item in fields if item is not None}
    if isinstance(value, Mapping):
        return {str(key): entity_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [entity_json(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value


def _camel(name: str) -> str:
    first, *more = name.split("_")
    return first + "".join(part.capitalize() for part in more)


def write_json(value: Any) -> None:
    """Write a resource or plain data as JSON to stdout."""
    click.echo(json.dumps(entity_json(value), indent=2, ensure_ascii=False))


def console(*, stderr: bool = False) -> Console:
    """Return the console for people; it knows whether somebody watches."""
    from rich.console import Console  # noqa: PLC0415 # takes long, and JSON does without

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """Write a table.

    On a terminal it is as wide as the terminal and folds what does not fit; in a pipe every value
    stands whole on its row's one line.

    Args:
        columns: The headings.
        rows: The values, one for each column.
        empty: What to say on stderr where there are no rows.
    """
    texts = [["" if value is None else str(value) for value in row] for row in rows]
    if not texts and empty:
        click.echo(empty, err=True)
        return
    if not sys.stdout.isatty():
        for line in _plain(columns, texts):
            click.echo(line)
        return
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 # takes long, and JSON does without
    from rich.table import Table  # noqa: PLC0415 # as above
    from rich.text import Text  # noqa: PLC0415 # as above

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        shown.add_column(name, overflow="fold", no_wrap=name == "ID")
    for row in texts:
        shown.add_row(*(Text(value) for value in row))
    console().print(shown)


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    flat = [[" ".join(value.split()) for value in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in flat), 0) for i, name in enumerate(columns)]
    for row in ([*columns], *flat):
        cells = (value.ljust(width) for value, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def details(pairs: Iterable[tuple[str, object]]) -> None:
    """Write names and values under one another; what is empty is left out."""
    shown = [(name, str(value)) for name, value in pairs if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *more = value.splitlines() or [""]
        click.echo(f"{name.ljust(width)}  {first}".rstrip())
        for line in more:
            click.echo(f"{'':{width}}  {line}".rstrip())


def age(when: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago a time is, as "3m" or "2d"; "" where there is none."""
    if when is None:
        return ""
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    seconds = max(0, int(((now or datetime.now(UTC)) - when).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


class Progress(Protocol):
    """Says how far something is."""

    def update(self, text: str) -> None:
        """Show a text in the place of the one before."""


class _Spinner:
    def __init__(self, status: Any) -> None:
        self._status = status

    def update(self, text: str) -> None:
        self._status.update(text)


class _Lines:
    """Where nobody watches, each new text is a line on stderr."""

    def __init__(self, first: str, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""
        self.update(first)

    def update(self, text: str) -> None:
        if text != self._last and not self._quiet:
            click.echo(text, err=True)
        self._last = text


@contextmanager
def progress(text: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Show on stderr what is being waited for.

    Args:
        text: The first text.
        quiet: Show nothing where nobody watches.
    """
    if sys.stderr.isatty():
        from rich.markup import escape  # noqa: PLC0415 # takes long, and JSON does without

        with console(stderr=True).status(escape(text)) as status:
            yield _Spinner(status)
    else:
        yield _Lines(text, quiet=quiet)


_ACTIVITIES = {"read": "reading", "upload": "uploading", "download": "downloading"}


@contextmanager
def transfer(*, quiet: bool = False) -> Iterator[Callable[[TransferProgress], None]]:
    """Show on stderr how far a transfer is, and give what is to be told of it.

    On a terminal it is a bar; elsewhere a line for each tenth.

    Args:
        quiet: Show nothing where nobody watches.
    """
    if not sys.stderr.isatty():
        tenths = dict[str, int]()

        def tell(now: TransferProgress) -> None:
            tenth = 10 * now.done // now.total if now.total else 10
            if tenth != tenths.get(now.activity) and not quiet:
                text = f"{_ACTIVITIES[now.activity]}: {now.done} of {now.total} bytes"
                click.echo(text, err=True)
            tenths[now.activity] = tenth

        yield tell
        return
    from rich import progress as bars  # noqa: PLC0415 # takes long, and JSON does without

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(binary_units=True),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console(stderr=True)) as shown:
        tasks = dict[str, bars.TaskID]()

        def move(now: TransferProgress) -> None:
            if now.activity not in tasks:
                name = _ACTIVITIES[now.activity]
                tasks[now.activity] = shown.add_task(name, total=now.total)
            shown.update(tasks[now.activity], completed=now.done)

        yield move
