"""Random pipelines over random JSON: mostly sensible, now and then wrong.

Everything is drawn from few names and texts, so that queries, members and patterns meet.
"""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


@st.composite
def _mostly(draw: st.DrawFn, usual: SearchStrategy[Any], other: SearchStrategy[Any]) -> Any:
    """The other one out of twelve times: a pipeline has many places where it may go wrong."""
    return draw(other if draw(st.integers(0, 11)) == 11 else usual)


_NAMES = st.sampled_from(["a", "a", "b", "b", "c", "d", "t", "a b", "x.y", "é", "7", "$n"])
_USUAL = st.sampled_from(["a", "b", "c", "d", "t"])
_TEXTS = st.sampled_from(
    ["", "a", "ab1", "a1b22", "aGVsbG8=", "abc", "aé", "$x", "$$y", "1.5", "A\na", "a, b"]
)
_LEAVES = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from([0.5, -1.0, 1e20]) | _TEXTS
)
VALUES: SearchStrategy[Any] = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=6,
)
_OBJECTS = st.dictionaries(_NAMES, VALUES, max_size=3)


def _records(size: int) -> SearchStrategy[dict[str, Any]]:
    """Parallel lists under the usual names, and other members: what adapters are made for."""
    return st.fixed_dictionaries(
        {
            "a": st.lists(_OBJECTS, min_size=size, max_size=size),
            "b": st.lists(VALUES, min_size=size, max_size=size),
            "t": _TEXTS,
        },
        optional={"c": _OBJECTS, "d": VALUES, "x.y": VALUES, "7": _LEAVES},
    )


_ITEM = _mostly(st.one_of(_records(1), _records(2), _records(3)), _OBJECTS | VALUES)
ITEMS = _mostly(st.lists(_ITEM, min_size=1, max_size=3), st.just([]))

_MATCHING = st.sampled_from(
    ["$.a", "$.b", "$.t", "$.a[0]", "$.b[-1]", "$.b[0]", "$", "$.a[*]", "$.b[*]", "$['t']", "$.*"]
) | st.sampled_from(
    ["$.a[*].b", "$..b", "$.c.a", "$.d", "$.a[0:2]", "$.a[0].a", "t", "$.b[::-1]", "$.t | $.b"]
)
_STEPS = (
    st.sampled_from(
        [
            ".a",
            ".a",
            ".b",
            ".b",
            ".c",
            ".d",
            "['a b']",
            '["x.y"]',
            ".'é'",
            ".7",
            "[0]",
            "[0]",
            "[-1]",
        ]
    )
    | st.sampled_from(
        ["[*]", "[*]", ".*", "..a", "..*", "..b[0]", "[0:2]", "[::-1]", "[-2:]", "[0,1]", "[1:3:2]"]
    )
    | st.sampled_from(
        ["['a','b']", ".a,b", ".`this`", ".`parent`", ". a", ".(a)", ".(a.b)", "[5]", ".t"]
    )
)
_PATHS = st.lists(_STEPS, min_size=1, max_size=4).map(lambda steps: "$" + "".join(steps))
_JOINED = st.builds(
    lambda left, word, right: f"{left} {word} {right}",
    _PATHS,
    st.sampled_from(["|", "where", "wherenot", "&"]),
    _PATHS | st.sampled_from(["a", "b[0]", "a.b"]),
)
_BROKEN = st.sampled_from(
    ["$.", "$[", "$.a.len()", "$5.00", "$.a[?(@.b>1)]", "$.`len`", "$a", "$ ", "$..", "$.a b"]
) | st.sampled_from(
    ["$.a[", "$.where", "$.é", "$.a['b", "$.a[1.5]", "$.a[b]", "$.-1", "$.a-b", "$.@a"]
)
QUERIES = _mostly(_MATCHING | _PATHS, _mostly(_JOINED, _BROKEN))
_ONE_VALUE = _mostly(
    st.sampled_from(["$.a", "$.b", "$.t", "$.a[0]", "$.b[-1]", "$['t']", "$.b[0]", "$"]), QUERIES
)

_PATTERNS = st.sampled_from(
    ["a", "[a-z]", "([a-z])(\\d)", "\\d+", "(a)|(b)", "", "(?P<g>\\w)", ".", "^a$", "(", "é", "x?"]
)
_FLAGS = st.sampled_from([0, 0, 0, 2, 8, 16, 24, 64])
_REPLACEMENTS = st.sampled_from(["", "<\\g<0>>", "\\1", "x", "\\g<g>", "\\"])
_GROUPS = st.sampled_from([0, 0, 1, 2, "g"])


def _function(
    name: str, required: dict[str, Any] | None = None, **optional: SearchStrategy[Any]
) -> SearchStrategy[Any]:
    return st.fixed_dictionaries({"$func": st.just(name), **(required or {})}, optional=optional)


_OF_TEXT = st.one_of(
    _function("findall", {"pattern": _PATTERNS}, flags=_FLAGS),
    _function("search", {"pattern": _PATTERNS}, group=_GROUPS, default=VALUES, flags=_FLAGS),
    _function("split", {"pattern": _PATTERNS}, maxsplit=st.integers(-1, 2), flags=_FLAGS),
    _function(
        "sub", {"pattern": _PATTERNS, "repl": _REPLACEMENTS}, count=st.integers(0, 2), flags=_FLAGS
    ),
    _function("list"),
)
_OF_LISTS = st.one_of(
    _function("join", separator=_mostly(_TEXTS, _LEAVES)), _function("list"), _function("reduce")
)
_WRONG_STEPS = st.one_of(
    _function("list", zzz=_LEAVES), _function("upper"), _function("sub"), VALUES
)
_VALUE_STEPS: SearchStrategy[Any] = st.deferred(
    lambda: st.one_of(
        st.fixed_dictionaries({"$scalar": _ONE_VALUE}),
        st.fixed_dictionaries({"$scalar": st.just("$.t")}),
        st.fixed_dictionaries({"$literal": _mostly(_TEXTS, VALUES)}),
        st.fixed_dictionaries({"$list": QUERIES}),
        st.fixed_dictionaries({"$list": st.lists(_VALUE_STEPS, max_size=3)}),
    )
)
_ODD_STEPS = st.fixed_dictionaries({"$scalar": VALUES}, optional={"$list": VALUES, "b": VALUES})
_COMPUTES = _mostly(
    st.builds(
        lambda *steps: {"$compute": [step for step in steps if step is not None]},
        _mostly(_VALUE_STEPS, _ODD_STEPS),
        st.none() | _mostly(_OF_TEXT, _WRONG_STEPS),
        st.none() | _mostly(_OF_LISTS, _OF_TEXT),
        st.none() | _mostly(_OF_LISTS, _VALUE_STEPS),
    ),
    st.fixed_dictionaries(
        {"$compute": st.sampled_from([[], None, "", {}, [{}], 5]) | _VALUE_STEPS}
    ),
)
_KEYS = _mostly(st.sampled_from(["a", "b", "c", "d", "t", "$$k", "x.y"]), st.just("$r"))
_LEAF_TEMPLATES = st.one_of(_ONE_VALUE, _mostly(_COMPUTES, QUERIES), _LEAVES)
TEMPLATES: SearchStrategy[Any] = st.recursive(
    _LEAF_TEMPLATES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=3,
)


def _names(*usual: list[str]) -> SearchStrategy[Any]:
    """Lists of names: mostly of members that there are."""
    return _mostly(st.sampled_from(usual), st.lists(_NAMES, max_size=3) | VALUES)


def _spec(kind: str, configuration: SearchStrategy[Any]) -> SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"kind": st.just(kind), "configuration": configuration})


_FIELDS = _names(["a"], ["b", "a"], ["t"], ["t", "a", "b"])
_COLLECTIONS = _names(["a"], ["b"], ["a", "b"], ["b", "a"])
_INDEXES = _mostly(
    st.dictionaries(
        _NAMES, st.none() | QUERIES | st.sampled_from(["$.a[*].b", "a[*]", "$.b[*]"]), max_size=2
    ),
    _LEAVES | st.dictionaries(_NAMES, _LEAVES, max_size=1),
)
_FLATTEN = st.fixed_dictionaries(
    {},
    optional={
        "fields": _names(["a"], ["c"], ["t", "c"], []),
        "depth": _mostly(st.none() | st.integers(0, 3), _LEAVES),
        "addPrefix": _mostly(st.booleans(), _LEAVES),
    },
)
_UPLOAD = st.fixed_dictionaries(
    {"field": _mostly(_ONE_VALUE | st.just("t"), QUERIES | _LEAVES)},
    optional={
        "encoding": _mostly(
            st.sampled_from(["base64", "utf-8", "json", "json"]), st.sampled_from(["binary", "x"])
        ),
        "name": _mostly(st.just("part"), _LEAVES),
        "filename": _mostly(st.just("$.t") | _TEXTS, TEMPLATES),
        "contentType": _mostly(st.just("$.t") | _TEXTS, TEMPLATES),
        "formFields": _mostly(st.dictionaries(_KEYS, _LEAVES, max_size=2), TEMPLATES),
    },
)
_RENAMES = st.dictionaries(_mostly(_USUAL, _NAMES), _NAMES, max_size=2)
_KINDS = [
    _spec("Drop", st.fixed_dictionaries({"fields": _FIELDS})),
    _spec("Select", st.fixed_dictionaries({"fields": _FIELDS})),
    _spec("Rename", _RENAMES),
    _spec(
        "ExplodeCollections",
        st.fixed_dictionaries({"collections": _COLLECTIONS}, optional={"index": _INDEXES}),
    ),
    _spec("FlattenHierarchy", _mostly(_FLATTEN, st.none())),
    _spec("TransformJSON", _mostly(st.dictionaries(_KEYS, TEMPLATES, max_size=4), TEMPLATES)),
    # Any template finds something here, so that a later adapter has something to do.
    _spec("TransformJSON", st.fixed_dictionaries({"a": st.just("$.a"), "b": _ONE_VALUE})),
]
_ANY_KIND = st.sampled_from(
    ["Drop", "Select", "Rename", "ExplodeCollections", "FlattenHierarchy", "Map", "FileUpload"]
) | st.sampled_from(["TransformJSON", "Nope", "drop"])
# No members or elements: with any, the reference fails before it takes the first item, even if
# there is none; Podbay fails at the first item. Neither does anything, and as an extension
# Podbay builds the pipeline that is meant.
_NESTED = st.sampled_from([{}, [], "", 5])
_WRONG = st.one_of(
    st.fixed_dictionaries({"kind": _ANY_KIND}, optional={"configuration": VALUES}),
    st.fixed_dictionaries({"kind": st.just("Pipeline")}, optional={"configuration": _NESTED}),
)
_INNER = _mostly(st.one_of(_KINDS), _WRONG)
_SPECS = _mostly(
    st.one_of(
        *_KINDS,
        *_KINDS,
        _spec("Map", st.fixed_dictionaries({"collections": _COLLECTIONS, "adapter": _INNER})),
        _spec("FileUpload", _UPLOAD),
    ),
    _WRONG
    | _spec(
        "Map",
        st.fixed_dictionaries(
            {
                "collections": _COLLECTIONS,
                "adapter": _spec(
                    "Map", st.fixed_dictionaries({"collections": _COLLECTIONS, "adapter": _INNER})
                ),
            }
        ),
    ),
)
_BEFORE = st.lists(_SPECS, max_size=2)
PIPELINES = st.builds(
    lambda before, last: [*before, last],
    _BEFORE,
    _mostly(_SPECS, _spec("FileUpload", _UPLOAD)),
)
