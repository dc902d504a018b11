"""The query dialect: from text to the parts of a query.

    query    = query operator query | query bracket | primary
    primary  = "$" | "*" | names | number | `this` | `parent` | bracket | "(" query ")"
    names    = name { "," name }
    bracket  = "[" ( "*" | names | number { "," number } | slice ) "]"
    slice    = [number] ":" [number] [ ":" [number] ]
    operator = ".." < "." < "|" < "&" < where < wherenot     (loosest first, all from the left)

A bracket binds more loosely than every operator: `a|b[0]` is `(a|b)[0]`, and `a where b.c` is
`(a where b).c`. Nothing of this is chosen here: stored queries mean what they always meant.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from podbay.schema.adapters._errors import JsonPathLexerError, JsonPathParserError, quoted

_BINDING = {"..": 2, ".": 3, "|": 4, "&": 5, "where": 6, "wherenot": 7}

_TOKEN = re.compile(
    r"""
      (?P<blank>[ \t\n]+)
    | (?P<name>[a-zA-Z_@\u4e00-\u9fa5\U0001f600-\U0001f64f]
               [a-zA-Z0-9_@\-\u4e00-\u9fa5\U0001f600-\U0001f64f]*)
    | (?P<number>-?\d+)
    | '(?P<single>(?:[^'\\]|\\.)*)'
    | "(?P<double>(?:[^"\\]|\\.)*)"
    | `(?P<named>(?:[^`\\]|\\.)*)`
    | (?P<sign>\.\.|[*.\[\]()$,:|&~])
    """,
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.)")
_END = "the end"


@dataclass(frozen=True, slots=True)
class Root:
    """`$`: the value that the whole query is applied to."""


@dataclass(frozen=True, slots=True)
class This:
    """`` `this` ``: the value itself."""


@dataclass(frozen=True, slots=True)
class Parent:
    """`` `parent` ``: what the value was found in."""


@dataclass(frozen=True, slots=True)
class Everything:
    """`*`: all elements of an array, or all members of an object."""


@dataclass(frozen=True, slots=True)
class Names:
    """Members of an object, in this order."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Positions:
    """Elements of an array, in this order; negative ones count from the end."""

    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of an array."""

    start: int | None
    stop: int | None
    step: int | None


@dataclass(frozen=True, slots=True)
class Chain:
    """One part after the other, each applied to what the one before it found."""

    parts: "tuple[Part, ...]"


@dataclass(frozen=True, slots=True)
class Binary:
    """`..`, `|`, `&`, `where` or `wherenot`, by their spelling."""

    operator: str
    left: "Part"
    right: "Part"


Part = Root | This | Parent | Everything | Names | Positions | Slice | Chain | Binary


class _Token(NamedTuple):
    kind: str  # "name", "number", "named", or the sign or the reserved word itself
    text: str
    at: int


def parse(text: str) -> Part:
    """Reads a query.

    Raises:
        JsonPathLexerError: A character begins nothing, or a quotation does not end.
        JsonPathParserError: The parts are in an order that means nothing.
    """
    parser = _Parser(text)
    try:
        part = parser.query(0)
    except RecursionError:
        message = f"the query {quoted(text)} has too many parentheses"
        raise JsonPathParserError(message) from None
    if parser.token.kind != _END:
        raise parser.unexpected()
    return part


class _Parser:
    """Reads token by token, so that the first thing that is wrong is what is reported."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._ahead: _Token | None = None

    @property
    def token(self) -> _Token:
        if self._ahead is None:
            self._ahead = self._read()
        return self._ahead

    def _read(self) -> _Token:
        while self._position < len(self._text):
            at = self._position
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise self._unreadable(at)
            self._position = match.end()
            group = str(match.lastgroup)
            text = match[group]
            if group == "blank":
                continue
            if group in {"single", "double"}:
                return _Token("name", _ESCAPED.sub(r"\1", text), at)
            if group == "named":
                return _Token("named", _ESCAPED.sub(r"\1", text), at)
            if group == "sign" or (group == "name" and text in {"where", "wherenot"}):
                return _Token(text, text, at)
            return _Token(group, text, at)
        return _Token(_END, "", len(self._text))

    def _unreadable(self, at: int) -> JsonPathLexerError:
        character = self._text[at]
        what = "a quotation without an end" if character in "'\"`" else quoted(character)
        return JsonPathLexerError(f"the query {quoted(self._text)} has {what} at position {at}")

    def unexpected(self) -> JsonPathParserError:
        token = self.token
        what = "ends too early" if token.kind == _END else f"has no use for {quoted(token.text)}"
        return JsonPathParserError(f"the query {quoted(self._text)} {what} at position {token.at}")

    def _accept(self, kind: str) -> _Token | None:
        token = self.token
        if token.kind != kind:
            return None
        self._ahead = None
        return token

    def _expect(self, kind: str) -> _Token:
        token = self._accept(kind)
        if token is None:
            raise self.unexpected()
        return token

    def query(self, binding: int) -> Part:
        """Reads a query whose operators bind more tightly than `binding`."""
        parts = [self._primary()]
        while True:
            kind = self.token.kind
            if kind == "[" and binding == 0:
                parts.append(self._bracket())
                continue
            tightness = _BINDING.get(kind, 0)
            if tightness <= binding:
                return _chain(parts)
            self._expect(kind)
            right = self.query(tightness)
            if kind == ".":
                parts.append(right)
            else:
                parts = [Binary(kind, _chain(parts), right)]

    def _primary(self) -> Part:
        kind = self.token.kind
        if kind == "[":
            return self._bracket()
        if kind == "name":
            return self._names()
        if kind == "named":
            return self._named()
        if self._accept("$"):
            return Root()
        if self._accept("*"):
            return Everything()
        if self._accept("("):
            part = self.query(0)
            self._expect(")")
            return part
        return Names((str(self._number()),))

    def _named(self) -> Part:
        token = self._expect("named")
        if token.text == "this":
            return This()
        if token.text == "parent":
            return Parent()
        self._ahead = self._read()  # an unreadable character after it is the greater mistake
        raise JsonPathParserError(
            f"the query {quoted(self._text)} has the unknown operator {quoted(token.text)} at"
            f" position {token.at}; there are only `this` and `parent`"
        )

    def _names(self) -> Names:
        names = [self._expect("name").text]
        while self._accept(","):
            names.append(self._expect("name").text)
        return Names(tuple(names))

    def _number(self) -> int:
        token = self._expect("number")
        try:
            return int(token.text)
        except ValueError:  # more digits than Python converts
            message = f"the query {quoted(self._text)} has a number that is too long"
            raise JsonPathParserError(message) from None

    def _bracket(self) -> Part:
        self._expect("[")
        kind = self.token.kind
        part: Part
        if self._accept("*"):
            part = Everything()
        elif kind == "name":
            part = self._names()
        else:
            part = self._positions()
        self._expect("]")
        return part

    def _positions(self) -> Positions | Slice:
        first = self._number() if self.token.kind == "number" else None
        if first is None or self.token.kind == ":":
            self._expect(":")
            stop = self._number() if self.token.kind == "number" else None
            step = None
            if self._accept(":") and self.token.kind == "number":
                step = self._number()
            return Slice(first, stop, step)
        positions = [first]
        while self._accept(","):
            positions.append(self._number())
        return Positions(tuple(positions))


def _chain(parts: list[Part]) -> Part:
    """Joins parts. Chains stay flat: a query of thousands of names nests nothing."""
    if len(parts) == 1:
        return parts[0]
    flat: list[Part] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Chain) else (part,))
    return Chain(tuple(flat))
