"""The pipelines that the adapters are measured with."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple


class Case(NamedTuple):
    """A pipeline and an item of it.

    Attributes:
        name: What the table calls it.
        specs: The pipeline.
        item: What goes through it, again and again.
        aim: How many times the reference's rate is aimed at.
        calls: Each item is a run of its own, as it is for a client; the item may fail.
    """

    name: str
    specs: list[dict[str, Any]]
    item: Any
    aim: int
    calls: bool = False


def _spec(kind: str, configuration: Any) -> dict[str, Any]:
    return {"kind": kind, "configuration": configuration}


def _transform(template: Any) -> dict[str, Any]:
    return _spec("TransformJSON", template)


def _fields(kind: str, *fields: str) -> dict[str, Any]:
    return _spec(kind, {"fields": list(fields)})


def _explode(**configuration: Any) -> dict[str, Any]:
    return _spec("ExplodeCollections", configuration)


_CHOICES = {
    "id": "cmpl-1",
    "created": 1700000000,
    "model": "m-1",
    "choices": [
        {"index": at, "text": f"answer {at}", "finish_reason": "stop", "meta": {"rank": 3 - at}}
        for at in range(4)
    ],
}
_NESTED = {
    "id": "x",
    "usage": {"tokens": 7},
    "created": 1700000000,
    "model": "m-1",
    "choices": [{"label": "foo", "metadata": {"value": at, "top": 0.5}} for at in range(2)],
}
_FLATTEN = _spec("FlattenHierarchy", {"addPrefix": True})
_KIBIBYTE = base64.b64encode(bytes(range(256)) * 4).decode()
_DIGITS = {"object": {"id": "abc123", "name": "spam"}, "list": [1, 2]}
_LETTERS = _transform(
    {
        "id": "$.object.id",
        "letters": {
            "$compute": [
                {"$scalar": "$.object.id"},
                {"$func": "sub", "pattern": "[A-Za-z]", "repl": ""},
                {"$func": "list"},
            ]
        },
    }
)
_UPLOAD = _spec("FileUpload", {"field": "$.data"})

DROP = Case("Drop", [_fields("Drop", "usage", "created")], _NESTED, 3)
MAIN = [
    Case(
        "A: TransformJSON, one query and three literals",
        [_transform({"prompt": "$.text", "model": "m-1", "max_tokens": 100, "n": 4})],
        {"text": "Once upon a time", "_index_": 3},
        10,
    ),
    Case(
        "B: ExplodeCollections of 4, TransformJSON with one query",
        [_explode(collections=["choices"]), _transform({"text": "$.choices.text"})],
        _CHOICES,
        10,
    ),
    Case(
        "C: Drop, Map(FlattenHierarchy) of 2, Rename, Select",
        [
            _fields("Drop", "usage", "created"),
            _spec("Map", {"collections": ["choices"], "adapter": _FLATTEN}),
            _spec("Rename", {"choices": "responses"}),
            _fields("Select", "responses", "id"),
        ],
        _NESTED,
        3,
    ),
    Case(
        "B with an index query, an index position, a second query",
        [
            _explode(
                collections=["choices"],
                index={"_response_index_": None, "rank": "$.choices[*].meta.rank"},
            ),
            _transform({"text": "$.choices.text", "rank": "$.rank"}),
        ],
        _CHOICES,
        3,
    ),
    Case("TransformJSON, one query and a computation of three steps", [_LETTERS], _DIGITS, 3),
    Case(
        "FileUpload, 1 KiB of base64",
        [_UPLOAD],
        {"data": _KIBIBYTE, "mediaType": "image/png"},
        3,
    ),
    DROP,
]

_COMPLETION_IN = [_transform({"prompt": "$.text", "model": "m-1", "max_tokens": 100})]
_COMPLETION_OUT = [
    _explode(collections=["choices"], index={"_response_index_": None}),
    _transform({"text": "$.choices.text", "_response_index_": "$._response_index_"}),
]
_CHAT_IN = [
    _transform(
        {
            "model": "m-1",
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "$.text"},
            ],
            "temperature": 0,
        }
    )
]
_CHAT_OUT = [
    _explode(collections=["choices"]),
    _transform({"text": "$.choices.message.content", "why": "$.choices.finish_reason"}),
]
_CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "m-1",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Good evening, Dave."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}
_DEEP = {"a": {"b": {"c": {"d": 1, "e": 2}, "f": 3}}, "g": {"h": {"i": 4}}, "j": 5}
_WIDE = {f"name-{at}": {f"inner-{n}": n for n in range(10)} for at in range(10)}
_QUESTION = {"text": "Open the pod bay doors, Hal!"}

_ANSWER = {"text": "Let me think. " * 60 + "\nThe answer: 42, of course."}


def _pattern(name: str, pattern: str) -> Case:
    step = {"$func": "search", "pattern": pattern, "group": 1}
    template = {"a": {"$compute": [{"$scalar": "$.text"}, step]}}
    return Case(f"{name}: `{pattern}`", [_transform(template)], _ANSWER, 1)


# Each kind by itself, what else a kind does, and what a user of a language model writes.
KINDS = [
    Case("vLLM completions, input", _COMPLETION_IN, _QUESTION, 1),
    Case("vLLM completions, input, one item a run", _COMPLETION_IN, _QUESTION, 1, calls=True),
    Case("vLLM completions, output of 4", _COMPLETION_OUT, _CHOICES, 1),
    Case("vLLM completions, output of 4, one item a run", _COMPLETION_OUT, _CHOICES, 1, calls=True),
    Case("vLLM chat, input", _CHAT_IN, _QUESTION, 1),
    Case("vLLM chat, output of 1", _CHAT_OUT, _CHAT, 1),
    Case("vLLM chat, output of 1, one item a run", _CHAT_OUT, _CHAT, 1, calls=True),
    Case("an empty pipeline", [], _NESTED, 1),
    Case("Pipeline", [_spec("Pipeline", {})], _NESTED, 1),
    Case("Select of 2", [_fields("Select", "id", "model")], _NESTED, 1),
    Case("Rename of 1", [_spec("Rename", {"choices": "responses"})], _NESTED, 1),
    Case("Rename of 3", [_spec("Rename", {"id": "a", "model": "b", "usage": "c"})], _NESTED, 1),
    Case("Drop of 40", [_fields("Drop", *map(str, range(40)))], _NESTED, 1),
    Case("Drop, one item a run", DROP.specs, DROP.item, 1, calls=True),
    Case(
        "Drop, Drop, Rename, Rename",
        [*DROP.specs * 2, *[_spec("Rename", {"id": "id"})] * 2],
        _NESTED,
        1,
    ),
    Case("ExplodeCollections of 4", [_explode(collections=["choices"])], _CHOICES, 1),
    Case(
        "ExplodeCollections of 2 lists of 3",
        [_explode(collections=["a", "b"])],
        {"a": [1, 2, 3], "b": [4, 5, 6], "c": 7, "d": 8},
        1,
    ),
    Case(
        "ExplodeCollections of 1 list of 100",
        [_explode(collections=["a"], index={"i": None})],
        {"a": [0] * 100, "b": 1},
        1,
    ),
    Case("FlattenHierarchy, 2 levels", [_FLATTEN], _NESTED["choices"][0], 1),  # type: ignore[index]
    Case("FlattenHierarchy, 4 levels", [_FLATTEN], _DEEP, 1),
    Case("FlattenHierarchy, 10 by 10", [_FLATTEN], _WIDE, 1),
    Case(
        "FlattenHierarchy, no prefix", [_spec("FlattenHierarchy", {"addPrefix": False})], _DEEP, 1
    ),
    Case(
        "FlattenHierarchy, one field to depth 1",
        [_spec("FlattenHierarchy", {"addPrefix": True, "fields": ["a"], "depth": 1})],
        _DEEP,
        1,
    ),
    Case(
        "Map(Select) of 4",
        [_spec("Map", {"collections": ["choices"], "adapter": _fields("Select", "text")})],
        _CHOICES,
        1,
    ),
    Case(
        "Map(TransformJSON) of 4",
        [_spec("Map", {"collections": ["choices"], "adapter": _transform({"t": "$.text"})})],
        _CHOICES,
        1,
    ),
    Case("TransformJSON, no query", [_transform({"a": 1, "b": {"c": []}})], _NESTED, 1),
    Case(
        "TransformJSON, a slice and `..`",
        [
            _transform(
                {
                    "a": {"$compute": {"$list": "$.choices[1:3].text"}},
                    "b": {"$compute": {"$list": "$..rank"}},
                }
            )
        ],
        _CHOICES,
        1,
    ),
    _pattern("A pattern in place", r"answer:\s*(\w+)"),
    _pattern("A pattern under its limit, that tries much", r"(\s*[^.]+)\.$"),
    _pattern("A pattern under its limit, that tries little", r"\s*answer:\s*(.+)$"),
    Case(
        "TransformJSON, a literal of 20 lists (copied, not shared)",
        [_transform({"a": {"$compute": {"$literal": {str(at): [at] for at in range(20)}}}})],
        _NESTED,
        1,
    ),
    Case(
        "FileUpload, 1 KiB of base64 in lines",
        [_UPLOAD],
        {"data": base64.encodebytes(bytes(range(256)) * 4).decode()},
        1,
    ),
    Case(
        "FileUpload, 1 KiB of text",
        [
            _spec(
                "FileUpload", {"field": "$.data", "encoding": "utf-8", "contentType": "text/plain"}
            )
        ],
        {"data": "x" * 1024},
        1,
    ),
    Case(
        "FileUpload, JSON and form fields",
        [
            _spec(
                "FileUpload",
                {
                    "field": "$",
                    "encoding": "json",
                    "filename": "$.id",
                    "formFields": {"model": "$.model", "n": 1},
                },
            )
        ],
        _NESTED,
        1,
    ),
]

# Items that fail, each in a run of its own.
FAILURES = [
    Case("Select, a missing member", [_fields("Select", "zzz")], _NESTED, 1, calls=True),
    Case("Rename, a missing member", [_spec("Rename", {"zzz": "y"})], _NESTED, 1, calls=True),
    Case("Drop, a list", [_fields("Drop", "a")], 7, 1, calls=True),
    Case(
        "ExplodeCollections, a missing member",
        [_explode(collections=["z"])],
        _NESTED,
        1,
        calls=True,
    ),
    Case(
        "ExplodeCollections, lists of 3 and 2",
        [_explode(collections=["a", "b"])],
        {"a": [1, 2, 3], "b": [4, 5]},
        1,
        calls=True,
    ),
    Case(
        "FlattenHierarchy, an empty configuration",
        [_spec("FlattenHierarchy", {})],
        _NESTED,
        1,
        calls=True,
    ),
    Case(
        "Map(Select), a missing member",
        [_spec("Map", {"collections": ["choices"], "adapter": _fields("Select", "zzz")})],
        _CHOICES,
        1,
        calls=True,
    ),
    Case("TransformJSON, no match", [_transform({"a": "$.zzz"})], _NESTED, 1, calls=True),
    Case(
        "TransformJSON, several matches",
        [_transform({"a": "$.choices[*]"})],
        _NESTED,
        1,
        calls=True,
    ),
    Case(
        "TransformJSON, a number in join",
        [_transform({"a": {"$compute": [{"$list": "$.choices[*]"}, {"$func": "join"}]}})],
        _NESTED,
        1,
        calls=True,
    ),
    Case("FileUpload, no base64", [_UPLOAD], {"data": "abc"}, 1, calls=True),
    Case("FileUpload, a number", [_UPLOAD], {"data": 7}, 1, calls=True),
]
