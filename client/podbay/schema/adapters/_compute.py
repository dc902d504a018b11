"""`$compute`: steps that each make a value of the one before."""

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

from podbay.schema.adapters._errors import (
    RUN_FAILURES,
    AdapterError,
    ConfigurationAttributeError,
    ConfigurationKeyError,
    ConfigurationTypeError,
    ConfigurationValueError,
    ItemAttributeError,
    json_type,
    quoted,
    run_error_type,
)
from podbay.schema.adapters._query import Query
from podbay.schema.adapters._regex import Regex
from podbay.schema.adapters._stages import Building

Step = Callable[[Any], Any]

_VALUE_KEYS = ("$literal", "$scalar", "$list")
_REQUIRED: Any = object()


def build_compute(steps: Any, path: str, building: Building) -> Step:
    """Builds the function of a `$compute`: of one step, or of a list of steps.

    Args:
        steps: What stands under `$compute`; it becomes the adapter's own.
        path: Its place in the configuration.
        building: Options and warnings.
    """
    if isinstance(steps, dict):
        return _step(steps, path, building)
    if not isinstance(steps, list | str):
        raise ConfigurationTypeError(
            f"needs a step or a list of steps, not {json_type(steps)}", path=path
        )
    functions = [_step(one, f"{path}[{at}]", building) for at, one in enumerate(steps)]
    if not functions:
        return lambda _: None
    if len(functions) == 1:
        return functions[0]

    def compute(item: Any) -> Any:
        for function in functions:
            item = function(item)
        return item

    return compute


def fresh(value: Any) -> Step:
    """Returns the function that makes a new copy of a JSON value, whatever it is given."""
    inner = _inner(value)
    if inner is None:
        return lambda _: value
    if not inner:
        return lambda _: value.copy()
    makes = [(place, fresh(one)) for place, one in inner]

    def make_value(_: Any) -> Any:
        made = value.copy()
        for place, make in makes:
            made[place] = make(None)
        return made

    return make_value


def _inner(value: Any) -> list[tuple[Any, Any]] | None:
    """Returns the objects and arrays in a value, with their names or positions.

    Returns:
        None for a value that can hold nothing.
    """
    if isinstance(value, dict):
        members = list(value.items())
    elif isinstance(value, list):
        members = list(enumerate(value))
    else:
        return None
    return [(place, one) for place, one in members if isinstance(one, dict | list)]


def _step(step: Any, path: str, building: Building) -> Step:
    value = _value_step(step, path, building)
    if value is not None:
        return value
    if step.get("$func") is None:
        expected = ", ".join((*_VALUE_KEYS, "$func"))
        raise ConfigurationValueError(f"a step needs one of {expected}", path=path)
    return _function(step, path, building)


def _value_step(step: Any, path: str, building: Building) -> Step | None:
    """Builds `$literal`, `$scalar` or `$list`; returns None for a step that has none of them."""
    if not isinstance(step, dict):
        message = f"a step must be an object, not {json_type(step)}"
        raise ConfigurationAttributeError(message, path=path)
    given = [key for key in _VALUE_KEYS if step.get(key) is not None]
    if len(given) > 1:
        raise ConfigurationValueError(f"a step has only one of {', '.join(given)}", path=path)
    if not given:
        null = building.options.extensions and "$literal" in step and "$func" not in step
        return (lambda _: None) if null else None
    key = given[0]
    value = step[key]
    path = f"{path}.{key}"
    if key == "$literal":
        return fresh(value)
    if key == "$list" and isinstance(value, list):
        return _list_of_steps(value, path, building)
    return _query_step(key, value, path, building)


def _list_of_steps(steps: list[Any], path: str, building: Building) -> Step:
    functions = []
    for at, one in enumerate(steps):
        function = _value_step(one, f"{path}[{at}]", building)
        if function is None:
            message = f"an element needs one of {', '.join(_VALUE_KEYS)}"
            raise ConfigurationValueError(message, path=f"{path}[{at}]")
        functions.append(function)
    return lambda value: [function(value) for function in functions]


def _query_step(key: str, text: Any, path: str, building: Building) -> Step:
    escaped = isinstance(text, str) and text.startswith("$$")
    if escaped and building.options.extensions:
        return fresh(text[1:] if key == "$scalar" else [text[1:]])
    if escaped or not isinstance(text, str) or not text.startswith("$"):
        message = "needs a query, which begins with one $; use $literal for a value"
        raise ConfigurationValueError(message, path=path)
    query = compile_query(text, path)
    if key == "$scalar":
        return query.scalar(path)
    return query.all


def compile_query(text: Any, path: str) -> Query:
    """Compiles a query that stands at a place of the configuration."""
    try:
        return Query(text)
    except AdapterError as error:
        raise error.within(path) from None


def _function(step: dict[str, Any], path: str, building: Building) -> Step:
    name = step["$func"]
    if isinstance(name, list | dict):
        raise ConfigurationTypeError("must be the name of a function", path=f"{path}.$func")
    known = _FUNCTIONS.get(name) if isinstance(name, str) else None
    if known is None:
        message = f"{quoted(name)} is no function; there are {', '.join(_FUNCTIONS)}"
        raise ConfigurationKeyError(message, path=f"{path}.$func")
    parameters, make = known
    arguments = {key: value for key, value in step.items() if key != "$func"}
    unknown = [key for key in arguments if key not in parameters]
    missing = [key for key, default in parameters.items() if default is _REQUIRED]
    missing = [key for key in missing if key not in arguments]
    for problem, keys in (("does not take", unknown), ("needs", missing)):
        if keys:
            listed = ", ".join(map(quoted, keys))
            raise ConfigurationTypeError(f"{name} {problem} {listed}", path=path)
    return _located(make(parameters | arguments, path, building), name, path)


def _located(function: Step, name: str, path: str) -> Step:
    """Gives the errors of a function their place, and words without data."""

    def call(value: Any) -> Any:
        try:
            return function(value)
        except AdapterError as error:
            raise error.within(path) from None
        except RUN_FAILURES as failure:
            message = f"{name} cannot be applied to {json_type(value)}, or not with its arguments"
            raise run_error_type(failure)(message, path=path) from None

    return call


def _regex(arguments: dict[str, Any], path: str, building: Building) -> Regex:
    seconds = building.options.pattern_seconds
    regex = Regex(arguments["pattern"], arguments["flags"], seconds)
    if regex.problem:
        building.warn(f"{path}.pattern", f"fails for every item: {regex.problem}")
    return regex


def _findall(arguments: dict[str, Any], path: str, building: Building) -> Step:
    regex = _regex(arguments, path, building)
    return lambda value: regex.apply("findall", value)


def _join(arguments: dict[str, Any], path: str, building: Building) -> Step:
    separator = arguments["separator"]
    if isinstance(separator, str):
        return separator.join
    problem = f"the separator must be a string, not {json_type(separator)}"
    building.warn(f"{path}.separator", f"fails for every item: {problem}")

    def fail(_: Any) -> Any:
        raise ItemAttributeError(problem)

    return fail


def _list(arguments: dict[str, Any], path: str, building: Building) -> Step:
    del arguments, path, building
    return list


def _reduce(arguments: dict[str, Any], path: str, building: Building) -> Step:
    del arguments, path, building
    return lambda value: reduce(operator.add, value)


def _search(arguments: dict[str, Any], path: str, building: Building) -> Step:
    regex = _regex(arguments, path, building)
    group = arguments["group"]
    default = fresh(arguments["default"])

    def search(value: Any) -> Any:
        found = regex.apply("search", value, group)
        return found[0] if found else default(None)

    return search


def _split(arguments: dict[str, Any], path: str, building: Building) -> Step:
    regex = _regex(arguments, path, building)
    most = arguments["maxsplit"]
    return lambda value: regex.apply("split", value, most)


def _sub(arguments: dict[str, Any], path: str, building: Building) -> Step:
    regex = _regex(arguments, path, building)
    replacement, most = arguments["repl"], arguments["count"]
    return lambda value: regex.apply("sub", value, replacement, most)


# The parameters of each function with their defaults, and what builds it from the arguments.
_FUNCTIONS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any], str, Building], Step]]] = {
    "findall": ({"pattern": _REQUIRED, "flags": 0}, _findall),
    "join": ({"separator": ""}, _join),
    "list": ({}, _list),
    "reduce": ({}, _reduce),
    "search": ({"pattern": _REQUIRED, "flags": 0, "group": 0, "default": None}, _search),
    "split": ({"pattern": _REQUIRED, "maxsplit": 0, "flags": 0}, _split),
    "sub": ({"pattern": _REQUIRED, "repl": _REQUIRED, "count": 0, "flags": 0}, _sub),
}
