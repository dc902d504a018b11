"""Drop, Select and Rename: adapters of an item's own members. Names are literal, never queries."""

from collections.abc import Callable
from typing import Any

from podbay.schema.adapters._errors import (
    AdapterRunError,
    ItemAttributeError,
    ItemTypeError,
    json_type,
)
from podbay.schema.adapters._stages import Bind, Building, Lines, Stage, member, names_of

MOST_LINES = 64
"""More names than this are looped over, so that the lines of an adapter stay few."""


def build_drop(configuration: Any, building: Building) -> Stage:
    """Builds Drop: removes members. `fields`: their names; missing ones do not matter."""
    names = names_of(member(configuration, "fields"), ".fields", building)

    def drop(bind: Bind, copied: bool) -> list[str]:
        if names is None:
            return [*copy_lines(copied), raise_line(bind, no_list(".fields"))]
        if len(names) > MOST_LINES:
            pops = [f"for name in {bind(names)}: value.pop(name, None)"]
        else:
            pops = [f"value.pop({bind(name)}, None)" for name in names]
        return [*copy_lines(copied), *pops]

    return _stage("Drop", drop)


def build_select(configuration: Any, building: Building) -> Stage:
    """Builds Select: keeps the members `fields`, in this order; all must be there."""
    names = names_of(member(configuration, "fields"), ".fields", building)

    def select(bind: Bind, _copied: bool) -> list[str]:
        if names is None:
            return [raise_line(bind, no_list(".fields"))]
        if len(names) > MOST_LINES:
            return [
                "kept = {}",
                f"for name in {bind(names)}: kept[name] = value[name]",
                "value = kept",
            ]
        bound = [bind(name) for name in names]
        return [f"value = {{{', '.join(f'{name}: value[{name}]' for name in bound)}}}"]

    return _stage("Select", select)


def build_rename(configuration: Any, building: Building) -> Stage:
    """Builds Rename: takes each old name out, then sets the new one, one after the other."""
    pairs: tuple[tuple[Any, Any], ...] | None = None
    if isinstance(configuration, dict):
        pairs = tuple(configuration.items())
    else:
        building.warn("", f"fails for every item: it is {json_type(configuration)}, not an object")

    def rename(bind: Bind, copied: bool) -> list[str]:
        if pairs is None:
            return [*copy_lines(copied), raise_line(bind, _no_pairs)]
        if len(pairs) > MOST_LINES:
            moves = [f"for old, new in {bind(pairs)}: value[new] = value.pop(old)"]
        else:
            moves = [f"value[{bind(new)}] = value.pop({bind(old)})" for old, new in pairs]
        return [*copy_lines(copied), *moves]

    return _stage("Rename", rename)


def _stage(kind: str, lines: Lines) -> Stage:
    return Stage(kind, lines=lines, explain=explain_item, copies=True)


def copy_lines(copied: bool) -> list[str]:
    """Returns the lines after which `value` may be changed."""
    return [] if copied else ["value = value.copy()"]


def raise_line(bind: Bind, failure: Callable[[], AdapterRunError]) -> str:
    """Returns the line that fails for every item; an error is made for each, as it gets a place."""
    return f"raise {bind(failure)}()"


def no_list(path: str) -> Callable[[], ItemTypeError]:
    """Returns what makes the error of a place where a list of names is missing."""
    return lambda: ItemTypeError("must be a list of names", path=path)


def _no_pairs() -> ItemAttributeError:
    return ItemAttributeError("must be an object of old and new names")


def explain_item(item: Any) -> str:
    """Says why an item did not fit an adapter of its members."""
    if isinstance(item, dict):
        return "the configuration does not fit the item"
    return f"the item must be an object, not {json_type(item)}"
