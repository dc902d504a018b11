"""TransformJSON: a template of the output, with queries where values of the item go."""

import json
from collections.abc import Callable
from typing import Any

from podbay.schema.adapters._compute import build_compute, compile_query
from podbay.schema.adapters._errors import (
    ConfigurationTypeError,
    ConfigurationValueError,
    member_path,
    quoted,
)
from podbay.schema.adapters._fields import explain_item
from podbay.schema.adapters._stages import Building, Stage

Make = Callable[[Any], Any]
"""From an item to the value of a part of the template."""


def build_transform(configuration: Any, building: Building) -> Stage:
    """Builds TransformJSON: the configuration is the template."""
    make = compile_template(configuration, "", building)
    return Stage("TransformJSON", one=make, explain=explain_item)


def compile_template(template: Any, path: str, building: Building) -> Make:
    """Compiles a template.

    Args:
        template: JSON with queries and computations; the result shares nothing with it.
        path: Its place in the configuration, for errors.
        building: Options and warnings.

    Returns:
        From an item to the output, whose parts are new but for what queries find.

    Raises:
        ConfigurationValueError: It is not JSON, or a name is reserved.
        ConfigurationTypeError: It holds something that JSON cannot say.
        JSONPathError: A query is not valid.
    """
    make = _compile(_json_copy(template, path), path, building)
    return make if callable(make) else _constant(make)


def _json_copy(template: Any, path: str) -> Any:
    """Copies a template by way of JSON, which must not change it."""
    try:
        copy = json.loads(json.dumps(template))
    except TypeError:
        raise ConfigurationTypeError("holds a value that JSON does not have", path=path) from None
    except ValueError:
        raise ConfigurationValueError("refers to itself", path=path) from None
    if copy != template:
        message = "is not JSON: it changes on the way there and back"
        raise ConfigurationValueError(message, path=path)
    return copy


def _constant(value: Any) -> Make:
    return lambda _: value


def _compile(template: Any, path: str, building: Building) -> Any:
    """Compiles a part: into a function, or into itself where it is a constant without parts."""
    if isinstance(template, str):
        if template.startswith("$$"):
            return template[1:]
        if template.startswith("$"):
            return compile_query(template, path).scalar(path)
        return template
    if isinstance(template, list):
        return _compile_list(template, path, building)
    if isinstance(template, dict):
        if template.get("$compute") is not None:
            return _compile_compute(template, path, building)
        return _compile_object(template, path, building)
    return template


def _compile_compute(template: dict[str, Any], path: str, building: Building) -> Make:
    if len(template) > 1:
        raise ConfigurationValueError("$compute must be the only member", path=path)
    return build_compute(template["$compute"], f"{path}.$compute", building)


def _compile_object(template: dict[str, Any], path: str, building: Building) -> Make:
    constants: dict[str, Any] = {}
    made: list[tuple[str, Make]] = []
    for key, value in template.items():
        name = key
        if key.startswith("$$"):
            name = key[1:]
        elif key.startswith("$"):
            message = f"the name {quoted(key)} is reserved; write ${key} for the name itself"
            raise ConfigurationValueError(message, path=path)
        make = _compile(value, f"{path}{member_path(key)}", building)
        # A name that is made later keeps its place in the order.
        constants[name] = None if callable(make) else make
        if callable(make):
            made.append((name, make))
    if not made:
        return lambda _: constants.copy()
    if len(made) == 1:
        return _object_with_one(constants, *made[0])

    def make_object(item: Any) -> Any:
        output = constants.copy()
        for name, make in made:
            output[name] = make(item)
        return output

    return make_object


def _object_with_one(constants: dict[str, Any], name: str, make: Make) -> Make:
    if len(constants) == 1:
        return lambda item: {name: make(item)}

    def make_object(item: Any) -> Any:
        output = constants.copy()
        output[name] = make(item)
        return output

    return make_object


def _compile_list(template: list[Any], path: str, building: Building) -> Make:
    makes = []
    for at, element in enumerate(template):
        make = _compile(element, f"{path}[{at}]", building)
        makes.append(make if callable(make) else _constant(make))
    return lambda item: [make(item) for make in makes]
