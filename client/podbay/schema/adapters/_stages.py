"""What the adapters' modules make, and what they need for it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from podbay.schema.adapters._errors import ConfigurationKeyError, ConfigurationTypeError, json_type

One = Callable[[Any], Any]
"""From an item to the item that takes its place."""
Many = Callable[[Any], Iterator[Any]]
"""From an item to the items that take its place. Fails when it is called, not when iterated."""
Bind = Callable[[Any], str]
"""Gives an object a name that lines of Python can use. Nothing else gets into such lines."""
Lines = Callable[[Bind, bool], list[str]]
"""Makes lines of Python that turn `value`, an item, into the item that takes its place.

They are told whether `value` is already a copy that nobody else has, and may be changed.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class AdapterOptions:
    """How adapters deviate from the established behaviour. The defaults do not.

    Attributes:
        strict_index: An index query of ExplodeCollections must match as many values as there are
            positions; by default the shortest sequence decides, which loses records silently.
        extensions: Accept what the established behaviour has no use for: a kind Pipeline with a
            list of specifications (or an object whose member `adapters` is one), `null` as
            `$literal`, and texts that begin with `$$` in `$scalar` and `$list`.
        pattern_seconds: The longest time for one application of a regular expression, in seconds.
            One that cannot take long is applied in place. Any other is applied in a process that
            all share: who asks waits for it, an event loop too, and for those who asked before.
    """

    strict_index: bool = False
    extensions: bool = False
    pattern_seconds: float = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """An adapter that is ready to be applied. Exactly one of the four ways to do so is set.

    Attributes:
        kind: The kind, as in the specification.
        one: For an adapter that makes one item of each item.
        lines: The same, for one that is so quick that a call would be most of it.
        many: For an adapter that makes any number of items of each item.
        inner: For an adapter that applies others, one after the other.
        inner_path: Where the specifications of `inner` stand in the configuration.
        explain: Says why an item did not fit, after Python raised something.
        copies: What it makes of an item is a new object, down to its members but not below.
        last: The adapter must be the last of its pipeline.
    """

    kind: str
    one: One | None = None
    lines: Lines | None = None
    many: Many | None = None
    inner: "tuple[Stage, ...] | None" = None
    inner_path: str = ""
    explain: Callable[[Any], str] | None = None
    copies: bool = False
    last: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Building:
    """What a builder may use besides its configuration.

    Attributes:
        options: How to deviate from the established behaviour.
        warn: Takes a place in the configuration, and a remark about it.
        build: Builds an adapter inside of this one, from its specification and its place.
    """

    options: AdapterOptions
    warn: Callable[[str, str], None]
    build: Callable[[Any, str], Stage]


def member(configuration: Any, name: str) -> Any:
    """Returns a required member of a configuration.

    Raises:
        ConfigurationTypeError: The configuration is not an object.
        ConfigurationKeyError: It has no such member.
    """
    if not isinstance(configuration, dict):
        raise ConfigurationTypeError(f"must be an object, not {json_type(configuration)}")
    if name not in configuration:
        raise ConfigurationKeyError(f"needs the member {name!r}")
    return configuration[name]


def names_of(value: Any, place: str, building: Building) -> tuple[Any, ...] | None:
    """Returns the names in a list of the configuration.

    A string counts as the list of its characters, and what is no list at all fails for each
    item: both as ever, and both with a warning.

    Returns:
        The names, or None where the adapter fails for each item.
    """
    if isinstance(value, str):
        building.warn(place, "is read character by character; a list of names is expected")
    try:
        return tuple(value)
    except TypeError:
        building.warn(place, f"fails for every item: it is {json_type(value)}, not a list")
        return None
