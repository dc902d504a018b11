"""ExplodeCollections and Map: adapters of an item's lists."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from podbay.schema.adapters._compiled import compile_records
from podbay.schema.adapters._errors import (
    AdapterError,
    ConfigurationAttributeError,
    ConfigurationTypeError,
    ConfigurationValueError,
    ItemAssertionError,
    ItemAttributeError,
    ItemTypeError,
    ItemValueError,
    json_type,
    member_path,
    quoted,
)
from podbay.schema.adapters._fields import MOST_LINES, copy_lines, explain_item, no_list, raise_line
from podbay.schema.adapters._query import Query
from podbay.schema.adapters._run import Runner
from podbay.schema.adapters._stages import Bind, Building, Many, Stage, member, names_of

# The values of an index member for one item, given the number of positions.
_Index = Callable[[Any, int], Sequence[Any]]


def build_explode(configuration: Any, building: Building) -> Stage:
    """Builds ExplodeCollections: one record for each position of parallel lists.

    `collections`: the names of the lists; `index`: new names, each with null for the position, or
    with a query on the whole item whose matches are paired by position.
    """
    collections = member(configuration, "collections")
    names = names_of(collections, ".collections", building)
    index = configuration.get("index", {})
    if not isinstance(index, dict):
        message = f"must be an object, not {json_type(index)}"
        raise ConfigurationAttributeError(message, path=".index")
    indexes = tuple((name, _index(name, query, building)) for name, query in index.items())
    if isinstance(collections, list) and len(collections) == 1 and not indexes:
        many = _explode_one(collections[0])
    else:
        # In a string of names, each part of the string counts as taken: so it always was.
        taken = collections if isinstance(collections, str) else names or ()
        many = _explode(names, taken, indexes, strict=building.options.strict_index)
    if names == ():
        building.warn(".collections", "fails for every item: it is empty")
    return Stage("ExplodeCollections", many=many, explain=_explain(names))


def _index(name: str, query: Any, building: Building) -> _Index:
    path = f".index{member_path(name)}"
    if query is None:
        return lambda _, size: range(size)
    if not query:
        failure = ItemTypeError if isinstance(query, str) else ItemAttributeError
        building.warn(path, "fails for every item: it is neither a query nor null")

        def fail(item: Any, size: int) -> Any:
            del item, size
            raise failure("must be a query or null", path=path)

        return fail
    if isinstance(query, list):
        raise ConfigurationValueError("must be a query or null, not an array", path=path)
    if not isinstance(query, str):
        message = f"must be a query or null, not {json_type(query)}"
        raise ConfigurationTypeError(message, path=path)
    try:
        find = Query(query).all
    except AdapterError as error:
        raise error.within(path) from None
    return lambda item, _: find(item)


def _explode_one(name: Any) -> Many:
    """The same as `_explode` for one collection without an index, which is the usual case."""

    def explode(item: Any) -> Iterator[Any]:
        collection = item[name]
        len(collection)
        return records(_without(item, (name,)), collection)

    def records(rest: dict[Any, Any], elements: Any) -> Iterator[Any]:
        for element in elements:
            record = rest.copy()
            record[name] = element
            yield record

    return explode


def _without(item: Any, names: str | tuple[Any, ...]) -> dict[Any, Any]:
    """Returns the other members of an item."""
    if type(item) is dict and isinstance(names, tuple):
        rest = item.copy()
        for name in names:
            rest.pop(name, None)
        return rest
    return {key: value for key, value in item.items() if key not in names}


def _explode(
    names: tuple[Any, ...] | None,
    taken: str | tuple[Any, ...],
    indexes: tuple[tuple[str, _Index], ...],
    *,
    strict: bool,
) -> Many:
    if names is None:
        message = "must be a list of names"

        def fail(_: Any) -> Iterator[Any]:
            raise ItemTypeError(message, path=".collections")

        return fail

    records = _records((*names, *(name for name, _ in indexes)))

    def explode(item: Any) -> Iterator[Any]:
        columns = {name: item[name] for name in names}
        rest = _without(item, taken)
        if not columns:
            raise ItemAssertionError("names no collection", path=".collections")
        size = _common_size(columns.values())
        for name, find in indexes:
            columns[name] = found = find(item, size)
            if strict and len(found) != size:
                message = f"the query matches {len(found)} values for {size} positions"
                raise ItemValueError(message, path=f".index{member_path(name)}")
        return records(rest, zip(*columns.values(), strict=False))

    return explode


def _records(names: tuple[Any, ...]) -> Callable[[dict[Any, Any], Any], Iterator[Any]]:
    """Returns the function that makes the records; a name that comes again has its first place."""
    try:
        columns = tuple(dict.fromkeys(names))
    except TypeError:  # a name that no object has, so there are no records
        columns = ()
    return compile_records(columns or (None,))


def _common_size(collections: Iterable[Any]) -> int:
    sizes: list[int] = []
    for collection in collections:
        sizes.append(len(collection))
        if sizes[-1] != sizes[0]:
            message = f"the collections differ in length: {sizes[0]} and {sizes[-1]}"
            raise ItemValueError(message, path=".collections")
    return sizes[0]


def _explain(names: tuple[Any, ...] | None) -> Callable[[Any], str]:
    def explain(item: Any) -> str:
        if not isinstance(item, dict):
            return explain_item(item)
        for name in names or ():
            value = item.get(name) if isinstance(name, str) else None
            if not isinstance(value, list):
                return f"the member {quoted(name)} must be an array, not {json_type(value)}"
        return explain_item(item)

    return explain


def build_map(configuration: Any, building: Building) -> Stage:
    """Builds Map: applies `adapter` to the elements of each list in `collections`."""
    names = names_of(member(configuration, "collections"), ".collections", building)
    inner = building.build(member(configuration, "adapter"), ".adapter")
    if needs_to_be_last(inner):
        message = "FileUpload must be the last adapter of a pipeline, it cannot be inside of Map"
        raise ConfigurationValueError(message, path=".adapter")
    collect = Runner((inner,), numbered=False, prefix=".adapter").collect

    def map_lines(bind: Bind, copied: bool) -> list[str]:
        lines = copy_lines(copied)
        if names is None:
            return [*lines, raise_line(bind, no_list(".collections"))]
        function = bind(collect)
        if len(names) > MOST_LINES:
            return [*lines, f"for name in {bind(names)}: value[name] = {function}(value[name])"]
        return [
            *lines,
            *(f"value[{name}] = {function}(value[{name}])" for name in map(bind, names)),
        ]

    return Stage("Map", lines=map_lines, explain=_explain(names), copies=True)


def needs_to_be_last(stage: Stage) -> bool:
    """Says whether a stage, or one inside of it, must end its pipeline."""
    return stage.last or any(map(needs_to_be_last, stage.inner or ()))
