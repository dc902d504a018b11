"""Queries, ready to be applied to values.

A path of plain names and positions, as `$.choices[0].text`, is walked directly. Everything else
goes through matches that remember what they were found in, for `$` and `` `parent` `` in the
middle of a query.
"""

from collections.abc import Callable
from typing import Any

from podbay.schema.adapters._errors import (
    ConfigurationTypeError,
    ItemAssertionError,
    ItemNotImplementedError,
    ItemValueError,
    quoted,
)
from podbay.schema.adapters._query_syntax import (
    Binary,
    Chain,
    Everything,
    Names,
    Parent,
    Part,
    Positions,
    Root,
    Slice,
    This,
    parse,
)

_MISSING: Any = object()

# A value, and the match that it was found in.
_Match = tuple[Any, Any]
_Finder = Callable[[_Match], list[_Match]]


class Query:
    """A compiled query.

    Attributes:
        text: The query as it was written.
        plain: The names and positions of a plain path; None for any other query.
        all: Returns the values of all matches in a value, in order; they are not copied.
    """

    __slots__ = ("all", "plain", "text")

    def __init__(self, text: object) -> None:
        """Compiles a query.

        Args:
            text: The query; a relative one, as `a.b`, means the same as `$.a.b`.

        Raises:
            ConfigurationTypeError: It is not a string.
            JSONPathError: It is not a query.
        """
        if not isinstance(text, str):
            raise ConfigurationTypeError(f"a query must be a string, not {quoted(text)}")
        self.text = text
        part = parse(text)
        self.plain = _plain(part)
        self.all: Callable[[Any], list[Any]]
        if self.plain is None:
            self.all = _all_of(_finder(part))
        else:
            self.all = _all_of_plain(_walker(self.plain))

    def scalar(self, path: str) -> Callable[[Any], Any]:
        """Returns the function that takes the value of the only match.

        Args:
            path: The place of the query in the configuration, for errors.

        Returns:
            A function of a value; it raises ItemValueError for no match and for several.
        """
        return _only_plain(self, path) if self.plain is not None else _only(self, path)


def _plain(part: Part) -> tuple[str | int, ...] | None:
    """Returns the names and positions of a query that has nothing else."""
    parts = part.parts if isinstance(part, Chain) else (part,)
    steps: list[str | int] = []
    for place, one in enumerate(parts):
        match one:
            case Names((name,)):
                steps.append(name)
            case Positions((position,)):
                steps.append(position)
            case This():
                pass
            case Root() if place == 0:
                pass
            case _:
                return None
    return tuple(steps)


def _walker(steps: tuple[str | int, ...]) -> Callable[[Any], Any]:
    """Returns the function that follows a plain path to its value, or to `_MISSING`."""
    if not steps:
        return lambda value: value
    if len(steps) == 1 and isinstance(steps[0], str):
        name = steps[0]
        return lambda value: value.get(name, _MISSING) if isinstance(value, dict) else _MISSING

    if all(isinstance(step, str) for step in steps):

        def walk_names(value: Any) -> Any:
            for step in steps:
                if not isinstance(value, dict):
                    return _MISSING
                value = value.get(step, _MISSING)
            return value

        return walk_names

    def walk(value: Any) -> Any:
        for step in steps:
            if isinstance(step, str):
                if not isinstance(value, dict):
                    return _MISSING
                value = value.get(step, _MISSING)
            elif isinstance(value, list) and -len(value) <= step < len(value):
                value = value[step]
            else:
                return _MISSING
        return value

    return walk


def _all_of_plain(walk: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def find(value: Any) -> list[Any]:
        found = walk(value)
        return [] if found is _MISSING else [found]

    return find


def _all_of(finder: _Finder) -> Callable[[Any], list[Any]]:
    return lambda value: [found for found, _ in finder((value, None))]


def _no_match(query: Query, path: str) -> ItemValueError:
    message = f"nothing matches the query {quoted(query.text)}, one value is needed"
    return ItemValueError(message, path=path)


def _only_plain(query: Query, path: str) -> Callable[[Any], Any]:
    steps = query.plain or ()
    walk = _walker(steps)
    if not steps:
        return walk

    def only(value: Any) -> Any:
        found = walk(value)
        if found is _MISSING:
            raise _no_match(query, path)
        return found

    names = [step for step in steps if isinstance(step, str)]
    return _fast_names(names, only) if len(names) == len(steps) else only


def _fast_names(names: list[str], otherwise: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Follows names through plain objects; for all else, failures included, asks `otherwise`.

    This is what most of the time of most adapters goes into, so one and two names, which are the
    usual ones, have no loop.
    """
    if len(names) == 1:
        (name,) = names

        def one(value: Any) -> Any:
            if type(value) is dict and name in value:
                return value[name]
            return otherwise(value)

        return one
    if len(names) == 2:
        first, second = names

        def two(value: Any) -> Any:
            if type(value) is dict and first in value:
                inner = value[first]
                if type(inner) is dict and second in inner:
                    return inner[second]
            return otherwise(value)

        return two

    def several(value: Any) -> Any:
        found = value
        for name in names:
            if type(found) is not dict or name not in found:
                return otherwise(value)
            found = found[name]
        return found

    return several


def _only(query: Query, path: str) -> Callable[[Any], Any]:
    find = query.all

    def only(value: Any) -> Any:
        found = find(value)
        if len(found) == 1:
            return found[0]
        if not found:
            raise _no_match(query, path)
        message = f"{len(found)} values match the query {quoted(query.text)}, one is needed"
        raise ItemValueError(message, path=path)

    return only


def _finder(part: Part) -> _Finder:
    match part:
        case Names(names):
            return _find_names(names)
        case Positions(positions):
            return _find_positions(positions)
        case Slice():
            return _find_slice(part)
        case Everything():
            return _children
        case Root():
            return _root
        case This():
            return lambda match: [match]
        case Parent():
            return _parent
        case Chain(parts):
            return _find_chain([_finder(one) for one in parts])
        case Binary(operator, left, right):
            return _OPERATORS[operator](_finder(left), _finder(right))


def _find_names(names: tuple[str, ...]) -> _Finder:
    def find(match: _Match) -> list[_Match]:
        value = match[0]
        if not isinstance(value, dict):
            return []
        return [(value[name], match) for name in names if name in value]

    return find


def _find_positions(positions: tuple[int, ...]) -> _Finder:
    def find(match: _Match) -> list[_Match]:
        value = match[0]
        if not isinstance(value, list):
            return []
        size = len(value)
        return [(value[at], match) for at in positions if -size <= at < size]

    return find


def _find_slice(part: Slice) -> _Finder:
    if part.step == 0:
        return lambda _: []
    wanted = slice(part.start, part.stop, part.step)

    def find(match: _Match) -> list[_Match]:
        value = match[0]
        return [(found, match) for found in value[wanted]] if isinstance(value, list) else []

    return find


def _children(match: _Match) -> list[_Match]:
    value = match[0]
    if isinstance(value, dict):
        return [(found, match) for found in value.values()]
    if isinstance(value, list):
        return [(found, match) for found in value]
    return []


def _root(match: _Match) -> list[_Match]:
    while match[1] is not None:
        match = match[1]
    return [match]


def _parent(match: _Match) -> list[_Match]:
    if match[1] is None:
        raise ItemAssertionError("a query asks for the `parent` of the whole value")
    return [match[1]]


def _find_chain(finders: list[_Finder]) -> _Finder:
    def find(match: _Match) -> list[_Match]:
        matches = [match]
        for finder in finders:
            matches = [found for one in matches for found in finder(one)]
        return matches

    return find


def _find_descendants(left: _Finder, right: _Finder) -> _Finder:
    def find(match: _Match) -> list[_Match]:
        matches: list[_Match] = []
        ahead = left(match)[::-1]
        while ahead:
            one = ahead.pop()
            matches += right(one)
            ahead += _children(one)[::-1]
        return matches

    return find


def _find_either(left: _Finder, right: _Finder) -> _Finder:
    return lambda match: left(match) + right(match)


def _find_both(left: _Finder, right: _Finder) -> _Finder:
    del left, right

    def find(_: _Match) -> list[_Match]:
        raise ItemNotImplementedError("a query uses `&`, which has no meaning")

    return find


def _find_where(left: _Finder, right: _Finder) -> _Finder:
    return lambda match: [one for one in left(match) if right(one)]


def _find_where_not(left: _Finder, right: _Finder) -> _Finder:
    return lambda match: [one for one in left(match) if not right(one)]


_OPERATORS: dict[str, Callable[[_Finder, _Finder], _Finder]] = {
    "..": _find_descendants,
    "|": _find_either,
    "&": _find_both,
    "where": _find_where,
    "wherenot": _find_where_not,
}
