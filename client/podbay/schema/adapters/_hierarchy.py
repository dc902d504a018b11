"""FlattenHierarchy: nested objects become one object with joined names."""

from collections.abc import Callable
from typing import Any

from podbay.schema.adapters._errors import (
    ConfigurationAttributeError,
    ItemIndexError,
    ItemTypeError,
    ItemValueError,
    json_type,
)
from podbay.schema.adapters._fields import explain_item
from podbay.schema.adapters._stages import Building, Stage, names_of

_EMPTY = (
    "fails for every item: an empty configuration is not the same as none."
    ' Leave it out, or write {"addPrefix": true}'
)
_NO_PREFIX = "is not given and so false: names are not joined, and equal ones overwrite each other"


def build_flatten(configuration: Any, building: Building) -> Stage:
    """Builds FlattenHierarchy.

    Without a configuration the whole item is opened, and names are joined with dots. With one,
    names are joined only if `addPrefix` says so. `fields`: the members to open, by default all;
    `depth`: how many levels of objects to open, by default all.
    """
    if configuration is None:
        return _stage(_flatten_joined)
    if not isinstance(configuration, dict):
        message = f"must be an object, not {json_type(configuration)}"
        raise ConfigurationAttributeError(message)
    if not configuration:
        building.warn("", _EMPTY)
        return _stage(_fail_empty)
    if "addPrefix" not in configuration:
        building.warn(".addPrefix", _NO_PREFIX)
    joined = bool(configuration.get("addPrefix"))
    depth = configuration.get("depth")
    if not _is_depth(depth):
        building.warn(".depth", "fails for every item: it must be null, or a number from 0")
    fields = configuration.get("fields")
    if not fields and joined and depth is None:
        return _stage(_flatten_joined)
    if not fields:
        return _stage(lambda item: _flatten(item, joined=joined, depth=depth))
    names = names_of(fields, ".fields", building)

    def flatten_fields(item: Any) -> Any:
        flat = item.copy()
        if names is None:
            raise ItemTypeError("must be a list of names", path=".fields")
        for name in names:
            value = flat.pop(name)
            flat.update(_flatten({name: value}, joined=joined, depth=depth))
        return flat

    return _stage(flatten_fields)


def _stage(one: Callable[[Any], Any]) -> Stage:
    return Stage("FlattenHierarchy", one=one, explain=explain_item)


def _fail_empty(_: Any) -> Any:
    raise ItemTypeError(_EMPTY)


def _is_depth(depth: Any) -> bool:
    return depth is None or (isinstance(depth, int | float) and depth >= 0)


def _flatten_joined(item: Any) -> dict[Any, Any]:
    """The same as `_flatten` for joined names and any depth, quick for objects of two levels."""
    if not isinstance(item, dict):
        return _flatten(item, joined=True, depth=None)
    flat: dict[Any, Any] = {}
    for name, value in item.items():
        if isinstance(value, dict):
            prefix = name + "."
            for inner, leaf in value.items():
                if isinstance(leaf, dict):
                    return _flatten(item, joined=True, depth=None)
                flat[prefix + inner] = leaf
        else:
            # A name that is no string fails here, as it does in `_flatten`.
            flat["" + name] = value
    return flat


def _flatten(item: Any, *, joined: bool, depth: Any) -> dict[Any, Any]:
    """Opens the objects of an item, level by level, without calling itself."""
    if depth is not None and not _is_depth(depth):
        if isinstance(depth, int | float):
            raise ItemValueError("must not be negative", path=".depth")
        raise ItemTypeError(f"must be a number, not {json_type(depth)}", path=".depth")
    if not isinstance(item, dict):
        if joined:
            return {"": item}
        raise ItemIndexError(f"{json_type(item)} has no name that it could be kept under")
    flat: dict[Any, Any] = {}
    open_objects = [("", iter(item.items()))]
    while open_objects:
        prefix, members = open_objects[-1]
        for name, value in members:
            if isinstance(value, dict) and (depth is None or len(open_objects) <= depth):
                inner = f"{prefix + name}." if joined else prefix
                open_objects.append((inner, iter(value.items())))
                break
            flat[prefix + name if joined else name] = value
        else:
            open_objects.pop()
    return flat
