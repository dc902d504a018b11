"""Hypothesis strategies for the models of the JSON interface, made from the models themselves."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePosixPath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel, HttpUrl, StringConstraints
from pydantic.fields import FieldInfo

from podbay.schema import platform, requests
from podbay.schema.nodes import GpuDeclaration, NodeDeclaration
from podbay.schema.serving import ServingOptions

_INT32 = st.integers(-(2**31), 2**31 - 1)
_TEXT = st.text(max_size=12)
_PATH = st.from_regex(r"f[a-z0-9 ]{0,5}[a-z](/f[a-z]{1,3}){0,2}", fullmatch=True)
_ACCOUNT = st.from_regex(r"[a-z]([-_.a-z0-9]{0,8}[a-z0-9])?", fullmatch=True) | st.just("")
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_URLS = st.sampled_from(["https://example.com", "http://h:81/a?b=c#d", "https://xn--bcher-kva.de/"])
# The wire counts times from the year 1 on, in microseconds here.
_TIMES = st.datetimes(timezones=st.just(UTC))

_NODE_SIZES = st.sampled_from(["64Mi", "+8Gi", "64000000", "1e9"])

# What the types alone do not tell.
_FIELDS: dict[tuple[type[BaseModel], str], SearchStrategy[Any]] = {
    (platform.File, "path"): _PATH,
    (platform.File, "size"): st.integers(-(2**63), 2**63 - 1),
    (platform.InferenceServiceRunner, "nodes"): st.integers(1, 2**31 - 1),
    (platform.ContainerImageSource, "host"): st.sampled_from(["", "localhost:5000", "é.example"]),
    (NodeDeclaration, "cpu"): st.sampled_from(["1", "+.5", "500m"]),
    (NodeDeclaration, "memory"): _NODE_SIZES,
    (NodeDeclaration, "address"): st.sampled_from(["10.0.0.1", "n1.example"]),
    (NodeDeclaration, "labels"): st.dictionaries(st.text(min_size=1, max_size=5), _TEXT),
    (GpuDeclaration, "memory"): _NODE_SIZES,
    (ServingOptions, "readinessPath"): st.from_regex("/[!-~]{0,9}", fullmatch=True),
    # Whole nanoseconds, as the wire has them.
    (ServingOptions, "startTimeout"): st.integers(1, 86_400_000).map(lambda ms: ms / 1000),
    (ServingOptions, "stopGrace"): st.integers(0, 3_600_000).map(lambda ms: ms / 1000),
    (ServingOptions, "maxConcurrency"): st.integers(1, 2**31 - 1),
    (ServingOptions, "maxInFlight"): st.integers(1, 2**31 - 1),
    (ServingOptions, "queueLength"): st.integers(0, 2**31 - 1),
    (ServingOptions, "queueTimeout"): st.integers(0, 86_400_000).map(lambda ms: ms / 1000),
    (ServingOptions, "hedgeAfter"): st.integers(1, 3_600_000).map(lambda ms: ms / 1000),
    (requests.LocalInferenceServiceCreateRequest, "command"): st.lists(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=5),
        min_size=1,
        max_size=3,
    ),
    (requests.LocalInferenceServiceCreateRequest, "args"): st.just([]),
    (requests.LocalInferenceServiceCreateRequest, "env"): st.just([{"name": "A", "value": "é"}]),
    (requests.LocalInferenceServiceCreateRequest, "workingDir"): st.just("/srv"),
    (requests.LocalInferenceServiceCreateRequest, "name"): st.just("package.module.Class"),
}


def _repair_mount(data: dict[str, Any]) -> dict[str, Any]:
    kept = "data" if data["kind"] == "Data" else "scratch"
    payload = {
        "data": {"source": {"kind": "Model", "id": "m"}},
        "scratch": {"capacity": "10Gi"},
    }[kept]
    return {**data, "data": None, "scratch": None, kept: data.get(kept) or payload}


def _repair_serving(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "safeToRetry": True} if data.get("hedgeAfter") is not None else data


def _repair_service_request(data: dict[str, Any]) -> dict[str, Any]:
    runner = dict(data.get("runner") or {"kind": "mock", "resources": {}})
    runner["imageRef"] = None
    runner["image"] = runner.get("image") or {
        "host": "h",
        "name": "n",
        "digest": f"sha256:{'0' * 64}",
    }
    return {**data, "runner": runner}


def _repair_node(data: dict[str, Any]) -> dict[str, Any]:
    """Keep the rules that bind several fields; an empty list is one that is not there."""
    given = {**data, "engine": "unix:///run/docker.sock", "tls": None}
    ids = [gpu["id"] for gpu in given.get("gpus") or []]
    if not ids or len(set(ids)) < len(ids):
        given.pop("gpus", None)
    if given.get("tls") is None:
        given.pop("tls")
    if not given.get("labels"):
        given.pop("labels", None)
    return given


_REPAIRS: dict[type[BaseModel], Callable[[dict[str, Any]], dict[str, Any]]] = {
    ServingOptions: _repair_serving,
    platform.VolumeMount: _repair_mount,
    requests.InferenceServiceCreateRequest: _repair_service_request,
    NodeDeclaration: _repair_node,
}


def instances(model: type[BaseModel]) -> SearchStrategy[Any]:
    """Valid instances: fields that may be absent, null or empty are so now and then."""
    return _data(model).map(model.model_validate)


def _data(model: type[BaseModel]) -> SearchStrategy[dict[str, Any]]:
    required: dict[str, SearchStrategy[Any]] = {}
    optional: dict[str, SearchStrategy[Any]] = {}
    for name, info in model.model_fields.items():
        alias = info.alias or name
        (required if info.is_required() else optional)[alias] = _field(model, alias, info)
    data = st.fixed_dictionaries(required, optional=optional)
    repair = _REPAIRS.get(model)
    return data if repair is None else data.map(repair)


def _field(model: type[BaseModel], alias: str, info: FieldInfo) -> SearchStrategy[Any]:
    if alias == "account" and issubclass(model, requests.CreateRequest):
        return _ACCOUNT
    if alias == "account" and model is requests.LocalInferenceServiceCreateRequest:
        return _ACCOUNT
    if alias in {"components", "hardwareTypes"}:
        return st.lists(_TEXT, min_size=1, max_size=3)
    if alias == "limit":
        return st.none() | st.integers(1, 2000)
    special = _FIELDS.get((model, alias))
    if special is not None:
        nullable = NoneType in get_args(info.annotation)
        return st.none() | special if nullable else special
    return _of(info.annotation, tuple(info.metadata))


def _of(annotation: Any, metadata: tuple[Any, ...] = ()) -> SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _of(arguments[0], annotation.__metadata__)
    if origin in {Union, UnionType}:
        return st.one_of(*(_of(part) for part in arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(_of(arguments[0]), max_size=2)
    if origin is dict:
        if arguments[1] is Any:
            return st.dictionaries(_TEXT, _JSON, max_size=3)
        return st.dictionaries(_of(arguments[0]), _of(arguments[1]), max_size=2)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return st.deferred(lambda: _data(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from([member.value for member in annotation])
    if annotation is str:
        return _string(metadata)
    return _PLAIN[annotation]


_LABEL_KEYS = st.sampled_from(["a", "0-9", "Z", f"{'x' * 63}.b.c/n-1", "podbay.dev/note"])
_LABEL_VALUES = st.sampled_from(["", "a", "A._-9", "z" * 63])
_QUANTITIES = st.sampled_from(["0", "1.", ".5", "+8Gi", "500m", "1e3", "1E.5"])
# Generating from the patterns themselves takes most of a test's time.
_PATTERNED: list[tuple[str, SearchStrategy[str]]] = [
    ("", _LABEL_VALUES),
    ("_x", st.sampled_from(["latest", "_", "v" * 127])),
    ("a__b/c", st.sampled_from(["a", "a/b__c.d/e--f"])),
    ("abc.de/F-1", _LABEL_KEYS),
    (f"sha256:{'0' * 64}", st.sampled_from([f"sha256:{'0' * 64}", f"sha256:{'af' * 32}"])),
    ("1.5Gi", _QUANTITIES),
    ("node-1.rack", st.sampled_from(["n", "node-1", "a.b"])),
    ("GPU-1/0", st.sampled_from(["0", "GPU-8a", "nvidia.com/gpu-t4"])),
]


def _matching(pattern: str | re.Pattern[str]) -> SearchStrategy[str]:
    """The texts for the pattern of a field, told by an example that only it matches."""
    return next(values for example, values in _PATTERNED if re.fullmatch(pattern, example))


_PLAIN: dict[Any, SearchStrategy[Any]] = {
    NoneType: st.none(),
    bool: st.booleans(),
    int: _INT32,
    float: st.floats(allow_nan=False),
    datetime: _TIMES,
    HttpUrl: _URLS,
    PurePosixPath: st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8),
}


def _string(metadata: tuple[Any, ...]) -> SearchStrategy[str]:
    patterns = [m.pattern for m in metadata if isinstance(m, StringConstraints)]
    if not patterns:
        patterns = [getattr(m, "pattern", None) for m in metadata]
    return next((_matching(pattern) for pattern in patterns if pattern is not None), _TEXT)
