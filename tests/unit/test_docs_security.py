"""Each line of docs/security.md names tests, and there are such tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
# The tables that name tests, by the titles of their sections.
THREATS = (
    "A client that means harm",
    "A service image that means harm",
    "A node that means harm, or is lost",
    "A network that means harm",
    "Somebody else on the machine",
)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::((?:Test\w+::)?test_\w+)`")


def section(title: str) -> str:
    _, found, rest = PAGE.partition(f"\n## {title}\n")
    assert found, f"there is no section {title!r}"
    return rest.partition("\n## ")[0]


def _tests_of(path: str) -> set[str]:
    """Return the names of a file's tests, those of classes with the class before them."""

    def within(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + node.name
            elif isinstance(node, ast.ClassDef):
                yield from within(node.body, f"{prefix}{node.name}::")

    return set(within(ast.parse((ROOT / path).read_text(encoding="utf-8")).body, ""))


def test_every_line_of_a_threat_names_a_test() -> None:
    for title in THREATS:
        rows = [line for line in section(title).splitlines() if line.startswith("| ")][1:]
        assert len(rows) > 2, title
        assert [row for row in rows if not _TEST.search(row)] == []


def test_every_named_test_exists() -> None:
    named = _TEST.findall(PAGE)
    assert len(named) == PAGE.count(".py::")
    assert [f"{path}::{name}" for path, name in named if name not in _tests_of(path)] == []
