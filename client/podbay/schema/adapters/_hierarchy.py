"""FlattenHierarchy: nested objects become one object with joined names."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from podbay.schema.adapters._errors import (
    AdapterRunError,
    ConfigurationAttributeError,
    ItemIndexError,
    ItemTypeError,
    ItemValueError,
    json_type,
)
from podbay.schema.adapters._fields import explain_item
from podbay.schema.adapters._stages import Building, Stage, names_of

_T = TypeVar("_T")
_Flatten = Callable[[Any], dict[Any, Any]]

_EMPTY = (
    "fails for every item: an empty configuration is not the same as none."
    ' Leave it out, or write {"addPrefix": true}'
)
# How often a function calls itself, a level at a time, before objects are opened without a call.
_MOST_CALLS = 50
# How many names an adapter remembers, and for how many members each, at most.
_MOST_NAMES = 64
_NO_PREFIX = "is not given and so false: names are not joined, and equal ones overwrite each other"


def build_flatten(configuration: Any, building: Building) -> Stage:
    """Builds FlattenHierarchy.

    Without a configuration the whole item is opened, and names are joined with dots. With one,
    names are joined only if `addPrefix` says so. `fields`: the members to open, by default all;
    `depth`: how many levels of objects to open, by default all.
    """
    if configuration is None:
        return _stage(_joiner())
    if not isinstance(configuration, dict):
        message = f"must be an object, not {json_type(configuration)}"
        raise ConfigurationAttributeError(message)
    if not configuration:
        building.warn("", _EMPTY)
        return _stage(_fail_empty)
    if "addPrefix" not in configuration:
        building.warn(".addPrefix", _NO_PREFIX)
    flatten = _flattener(bool(configuration.get("addPrefix")), configuration.get("depth"), building)
    fields = configuration.get("fields")
    if not fields:
        return _stage(flatten)
    names = names_of(fields, ".fields", building)

    def flatten_fields(item: Any) -> Any:
        flat = item.copy()
        if names is None:
            raise ItemTypeError("must be a list of names", path=".fields")
        for name in names:
            value = flat.pop(name)
            flat.update(flatten({name: value}))
        return flat

    return _stage(flatten_fields)


def _stage(one: Callable[[Any], Any]) -> Stage:
    return Stage("FlattenHierarchy", one=one, explain=explain_item, copies=True)


def _fail_empty(_: Any) -> Any:
    raise ItemTypeError(_EMPTY)


def _flattener(joined: bool, depth: Any, building: Building) -> _Flatten:
    """Returns the function that opens the objects of an item, down to a depth."""
    failure = _depth_failure(depth)
    if failure is not None:
        building.warn(".depth", "fails for every item: it must be null, or a number from 0")
        return _failing(*failure)
    if joined and depth is None:
        return _joiner()
    prefix = "" if joined else None
    levels = math.inf if depth is None else depth

    def flatten(item: Any) -> dict[Any, Any]:
        if not isinstance(item, dict):
            return _flatten_leaf(item, joined=joined)
        flat: dict[Any, Any] = {}
        _open(flat, prefix, item, levels, _MOST_CALLS)
        return flat

    return flatten


def _depth_failure(depth: Any) -> tuple[type[AdapterRunError], str] | None:
    if depth is None or (isinstance(depth, int | float) and depth >= 0):
        return None
    if isinstance(depth, int | float):
        return ItemValueError, "must not be negative"
    return ItemTypeError, f"must be a number, not {json_type(depth)}"


def _failing(failure: type[AdapterRunError], message: str) -> _Flatten:
    def fail(_: Any) -> dict[Any, Any]:
        raise failure(message, path=".depth")

    return fail


def _flatten_leaf(item: Any, *, joined: bool) -> dict[Any, Any]:
    if joined:
        return {"": item}
    raise ItemIndexError(f"{json_type(item)} has no name that it could be kept under")


def _joiner() -> _Flatten:
    """Returns the function that joins names down to any depth, which is the usual case.

    It remembers the first joined names that it makes, because the next items have the same ones:
    making them is half of its time. It remembers nothing else of items.
    """
    known: dict[str, dict[str, str]] = {}

    def flatten(item: Any) -> dict[Any, Any]:
        if type(item) is not dict and not isinstance(item, dict):
            return _flatten_leaf(item, joined=True)
        flat: dict[Any, Any] = {}
        for name, value in item.items():
            # To compare types is much quicker than isinstance, and is enough for most values.
            kind = type(value)
            if kind is str or (kind is not dict and not isinstance(value, dict)):
                flat["" + name] = value  # a name that is no string fails here
                continue
            names = known[name] if name in known else _remember(known, name, {})
            for inner, leaf in value.items():
                if inner in names:
                    full = names[inner]
                else:
                    full = _remember(names, inner, name + "." + inner)
                kind = type(leaf)
                if kind is str or kind is int or kind is float or not isinstance(leaf, dict):
                    flat[full] = leaf
                else:
                    _open(flat, full + ".", leaf, math.inf, _MOST_CALLS)
        return flat

    return flatten


def _remember(known: dict[str, _T], name: str, value: _T) -> _T:
    if len(known) < _MOST_NAMES:
        known[name] = value
    return value


def _open(
    flat: dict[Any, Any], prefix: str | None, members: dict[Any, Any], levels: float, calls: int
) -> None:
    """Puts the leaves of an object into another one.

    Args:
        flat: What they are put into.
        prefix: What stands before their names; None if names are not joined.
        members: The object.
        levels: How many levels of objects inside of it are opened.
        calls: How often this function may still call itself.
    """
    for name, value in members.items():
        if isinstance(value, dict) and levels >= 1:
            inner_prefix = None if prefix is None else prefix + name + "."
            if calls:
                _open(flat, inner_prefix, value, levels - 1, calls - 1)
            else:
                _open_deep(flat, inner_prefix, value, levels - 1)
        else:
            flat[name if prefix is None else prefix + name] = value


def _open_deep(
    flat: dict[Any, Any], prefix: str | None, members: dict[Any, Any], levels: float
) -> None:
    """The same as `_open`, slower and without a call of itself."""
    open_objects = [(prefix, iter(members.items()))]
    while open_objects:
        prefix, rest = open_objects[-1]
        for name, value in rest:
            if isinstance(value, dict) and levels >= len(open_objects):
                inner_prefix = None if prefix is None else prefix + name + "."
                open_objects.append((inner_prefix, iter(value.items())))
                break
            flat[name if prefix is None else prefix + name] = value
        else:
            open_objects.pop()
