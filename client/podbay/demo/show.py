"""How the demo shows itself: headings, lines, progress and tables, with and without a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

__all__ = ["Bar", "Show", "Status"]

# Where nobody watches, a bar is a line at each of these parts of the whole.
_PARTS = 4


class Bar(Protocol):
    """Counts towards a total."""

    def advance(self) -> None:
        """Count one more."""


class Status(Protocol):
    """A line that changes."""

    def update(self, text: str) -> None:
        """Show a text in the place of the one before."""


class Show:
    """The demo's output.

    Args:
        file: Where to write.
    """

    def __init__(self, file: TextIO = sys.stdout) -> None:
        self._console = Console(file=file, highlight=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        """Begin a part."""
        self._console.print(f"\n[bold]{escape(text)}[/bold]")

    def line(self, text: str, *, style: str = "") -> None:
        """Write a line under the heading."""
        self._console.print(f"  {escape(text)}", style=style or None)

    def good(self, text: str) -> None:
        """Write a line on what has worked."""
        self.line(f"✓ {text}" if self._unicode else f"ok: {text}", style="green")

    def bad(self, text: str) -> None:
        """Write a line on what has not."""
        self.line(f"✗ {text}" if self._unicode else f"FAILED: {text}", style="bold red")

    def piece(self, text: str) -> None:
        """Write a piece of a line at once, without ending the line."""
        self._console.print(escape(text), end="", soft_wrap=True)
        self._console.file.flush()

    @property
    def _unicode(self) -> bool:
        return (self._console.encoding or "").lower().startswith("utf")

    @contextmanager
    def status(self, text: str) -> Iterator[Status]:
        """Show what is being waited for."""
        if self._console.is_terminal:
            with self._console.status(f"  {escape(text)}") as status:
                yield _Spinner(status.update)
        else:
            yield _Lines(self.line, text)

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Bar]:
        """Show how many of a total are done."""
        if not self._console.is_terminal:
            yield _LineBar(self.line, text, total)
            return
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(escape(text), total=total)
            yield _RichBar(progress, task)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write a table; columns whose name ends with "#" hold numbers."""
        names = [name.rstrip("#") for name in columns]
        texts = [list(row) for row in rows]
        widths = [max(len(row[i]) for row in (names, *texts)) for i in range(len(names))]
        self.line("")
        for number, row in enumerate((names, *texts)):
            cells = [
                cell.rjust(width) if name.endswith("#") else cell.ljust(width)
                for name, cell, width in zip(columns, row, widths, strict=True)
            ]
            self.line("  ".join(cells).rstrip(), style="bold" if number == 0 else "")
        self.line("")


class _Spinner:
    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def update(self, text: str) -> None:
        self._write(f"  {escape(text)}")


class _Lines:
    """Each new text is a line."""

    def __init__(self, write: Callable[[str], None], first: str) -> None:
        self._write = write
        self._last = ""
        self.update(first)

    def update(self, text: str) -> None:
        if text != self._last:
            self._write(text)
        self._last = text


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self) -> None:
        self._progress.advance(self._task)


class _LineBar:
    def __init__(self, write: Callable[[str], None], text: str, total: int) -> None:
        self._write = write
        self._text = text
        self._total = total
        self._done = 0

    def advance(self) -> None:
        self._done += 1
        step = max(1, self._total // _PARTS)
        if self._done % step == 0 or self._done == self._total:
            self._write(f"{self._text}: {self._done} of {self._total}")
