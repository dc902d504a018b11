"""The named components of data, and the schemas that they make up.

A component adds fields to the items of a data set. An input item has the fields of its
components and `_index_`; an output item has `_index_`, `_replication_` and `responses`, a list
of objects with `_response_index_` and the fields of the components.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from podbay.schema._arrow import (
    BINARY,
    INT64,
    STRING,
    ArrowField,
    ArrowType,
    list_of,
    serialize,
    struct_of,
)

__all__ = [
    "component_names",
    "input_arrow_schema",
    "input_json_schema",
    "output_arrow_schema",
    "output_json_schema",
]


@dataclass(frozen=True)
class _Field:
    name: str
    doc: str
    arrow: ArrowType
    title: str
    json: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = True

    def to_arrow(self) -> ArrowField:
        return ArrowField(self.name, self.arrow, self.doc)

    def to_json(self) -> dict[str, Any]:
        # A copy: the schema is the caller's to change.
        own = deepcopy(self.json)
        return dict(sorted({**own, "description": self.doc, "title": self.title}.items()))


_INDEX_JSON = {"type": "integer", "minimum": 0}
_BINARY_JSON = {"type": "string", "format": "binary"}
_TOKENS_JSON = {"type": "array", "items": {"type": "string"}}

_INDEX = _Field("_index_", "The index of the item in the dataset", INT64, "Index", _INDEX_JSON)
_REPLICATION = _Field(
    "_replication_", "ID of the replication the item belongs to.", STRING, "Replication"
)
_RESPONSE_INDEX = _Field(
    "_response_index_",
    "The index of the response among responses to the corresponding _index_",
    INT64,
    "Response Index",
    _INDEX_JSON,
)
_RESPONSES_DOC = "Inference responses"

_COMPONENTS: dict[str, tuple[_Field, ...]] = {
    "text.Text": (_Field("text", "Text data", STRING, "Text"),),
    "text.Tokens": (
        _Field(
            "tokens",
            "A list of text tokens",
            list_of(STRING),
            "Tokens",
            _TOKENS_JSON,
            required=False,
        ),
    ),
    "binary.Media": (
        _Field("data", "The binary data", BINARY, "Data", _BINARY_JSON),
        _Field("mediaType", "The IETF Media Type (MIME type) of the data", STRING, "Mediatype"),
    ),
    "classification.Label": (_Field("label", "The discrete label of the item", STRING, "Label"),),
    # Deprecated by the platform in favour of binary.Media.
    "vision.Image": (
        _Field("bytes", "The image data", BINARY, "Bytes", _BINARY_JSON),
        _Field("format", "The data MIME type", STRING, "Format"),
    ),
}


def component_names() -> list[str]:
    """Returns the names of all components."""
    return list(_COMPONENTS)


def _fields_of(components: Sequence[str]) -> list[_Field]:
    """Returns the fields of components; those of the last component come first."""
    known = ", ".join(_COMPONENTS)
    if not components:
        raise ValueError(f"a data schema needs at least one component; there are {known}")
    for index, name in enumerate(components):
        if name not in _COMPONENTS:
            raise ValueError(f"no data component has the name {name[:100]!r}; there are {known}")
        if name in components[:index]:
            raise ValueError(f"the data component {name!r} comes twice")
    return [part for name in reversed(components) for part in _COMPONENTS[name]]


def _json_object(title: str, fields: Sequence[_Field]) -> dict[str, Any]:
    return {
        "additionalProperties": False,
        "properties": {part.name: part.to_json() for part in fields},
        "required": [part.name for part in fields if part.required],
        "title": title,
        "type": "object",
    }


def input_json_schema(components: Sequence[str]) -> dict[str, Any]:
    """Returns the JSON Schema of input items.

    Args:
        components: Names of components, as "text.Text".

    Raises:
        ValueError: A name is unknown or comes twice, or there is none.
    """
    return _json_object("ProductItem", [_INDEX, *_fields_of(components)])


def input_arrow_schema(components: Sequence[str]) -> str:
    """Returns the Arrow schema of input items, serialized and in base64.

    Args:
        components: Names of components, as "text.Text".

    Raises:
        ValueError: A name is unknown or comes twice, or there is none.
    """
    return serialize([part.to_arrow() for part in (_INDEX, *_fields_of(components))])


def output_json_schema(components: Sequence[str]) -> dict[str, Any]:
    """Returns the JSON Schema of output items.

    Args:
        components: Names of components, as "text.Text".

    Raises:
        ValueError: A name is unknown or comes twice, or there is none.
    """
    item = _json_object("ProductResponseItem", [_RESPONSE_INDEX, *_fields_of(components)])
    schema = _json_object("Response", [_INDEX, _REPLICATION])
    schema["properties"]["responses"] = {
        "description": _RESPONSES_DOC,
        "items": {"$ref": "#/$defs/ProductResponseItem"},
        "title": "Responses",
        "type": "array",
    }
    schema["required"].append("responses")
    return {"$defs": {"ProductResponseItem": item}, **schema}


def output_arrow_schema(components: Sequence[str]) -> str:
    """Returns the Arrow schema of output items, serialized and in base64.

    Args:
        components: Names of components, as "text.Text".

    Raises:
        ValueError: A name is unknown or comes twice, or there is none.
    """
    response = [part.to_arrow() for part in (_RESPONSE_INDEX, *_fields_of(components))]
    responses = ArrowField("responses", list_of(struct_of(response)), _RESPONSES_DOC)
    return serialize([_INDEX.to_arrow(), _REPLICATION.to_arrow(), responses])
