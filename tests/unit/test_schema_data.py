"""The schemas of named data components against the recorded vectors."""

import json
from typing import Any

import pytest

from podbay.schema import data
from podbay.schema.platform import DataSchema, DyffDataSchema
from tests.support.schema_vectors import vectors


@pytest.mark.parametrize("names", vectors("data-schemas"))
def test_schemas_are_exact(names: str) -> None:
    expected = vectors("data-schemas")[names]
    components = names.split("+")
    assert json.loads(DataSchema.make_input_schema(components).json()) == expected["input"]
    assert json.loads(DataSchema.make_output_schema(components).json()) == expected["output"]
    named = DyffDataSchema(components=components)
    assert DataSchema.make_output_schema(named) == DataSchema.make_output_schema(components)


def test_one_name_stands_for_a_list_of_it() -> None:
    assert DataSchema.make_input_schema("text.Text") == DataSchema.make_input_schema(["text.Text"])


@pytest.mark.parametrize(
    ("components", "message"),
    [
        (["text.Nothing"], "no data component has the name 'text.Nothing'; there are text.Text,"),
        (["text.TaggedSpan"], "no data component"),
        (["os.path"], "no data component"),
        (["text.Text", "text.Text"], "comes twice"),
        ([], "at least"),
    ],
)
def test_unknown_names_are_refused(components: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSchema.make_input_schema(components)
    with pytest.raises(ValueError, match=message):
        DataSchema.make_output_schema(components)


def test_every_order_of_all_components_has_a_schema() -> None:
    names = data.component_names()
    forward, backward = (DataSchema.make_input_schema(order) for order in (names, names[::-1]))
    assert forward.arrowSchema != backward.arrowSchema
    assert forward.jsonSchema is not None
    assert len(forward.jsonSchema["properties"]) == 8


def test_schemas_do_not_share_what_can_be_changed() -> None:
    first: Any = data.input_json_schema(["text.Tokens"])
    first["properties"]["tokens"]["items"]["type"] = "changed"
    second: Any = data.input_json_schema(["text.Tokens"])
    assert second["properties"]["tokens"]["items"] == {"type": "string"}
