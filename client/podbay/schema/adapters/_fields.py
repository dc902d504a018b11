"""Drop, Select and Rename: adapters of an item's own members. Names are literal, never queries."""

from typing import Any

from podbay.schema.adapters._errors import ItemAttributeError, ItemTypeError, json_type
from podbay.schema.adapters._stages import Building, One, Stage, member, names_of


def build_drop(configuration: Any, building: Building) -> Stage:
    """Builds Drop: removes members. `fields`: their names; missing ones do not matter."""
    names = names_of(member(configuration, "fields"), ".fields", building)

    def drop(item: Any) -> Any:
        kept = item.copy()
        if names is None:
            raise _no_list(".fields")
        for name in names:
            kept.pop(name, None)
        return kept

    return Stage("Drop", one=drop, explain=explain_item)


def build_select(configuration: Any, building: Building) -> Stage:
    """Builds Select: keeps the members `fields`, in this order; all must be there."""
    names = names_of(member(configuration, "fields"), ".fields", building)

    def select(item: Any) -> Any:
        if names is None:
            raise _no_list(".fields")
        kept = {}
        for name in names:
            kept[name] = item[name]
        return kept

    return Stage("Select", one=select, explain=explain_item)


def build_rename(configuration: Any, building: Building) -> Stage:
    """Builds Rename: takes each old name out, then sets the new one, one after the other."""
    pairs: tuple[tuple[Any, Any], ...] | None = None
    if isinstance(configuration, dict):
        pairs = tuple(configuration.items())
    else:
        building.warn("", f"fails for every item: it is {json_type(configuration)}, not an object")

    def rename(item: Any) -> Any:
        renamed = item.copy()
        if pairs is None:
            raise ItemAttributeError("must be an object of old and new names")
        for old, new in pairs:
            renamed[new] = renamed.pop(old)
        return renamed

    one = _rename_one(*pairs[0]) if pairs is not None and len(pairs) == 1 else rename
    return Stage("Rename", one=one, explain=explain_item)


def _rename_one(old: Any, new: Any) -> One:
    def rename(item: Any) -> Any:
        renamed = item.copy()
        renamed[new] = renamed.pop(old)
        return renamed

    return rename


def explain_item(item: Any) -> str:
    """Says why an item did not fit an adapter of its members."""
    if isinstance(item, dict):
        return "the configuration does not fit the item"
    return f"the item must be an object, not {json_type(item)}"


def _no_list(path: str) -> ItemTypeError:
    return ItemTypeError("must be a list of names", path=path)
