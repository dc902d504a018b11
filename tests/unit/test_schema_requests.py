"""Requests for local services, and the checks at creation."""

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from podbay.schema import requests
from podbay.schema.platform import InferenceService, InferenceServiceRunner
from tests.support.schema_vectors import valid_instance

_INTERFACE = {"endpoint": "generate", "outputSchema": {"arrowSchema": ""}}
_MOCK = {"account": "a", "name": "package.module.Outer.Inner", "interface": _INTERFACE}
_COMMAND = {**_MOCK, "name": "any name", "command": ["python", "-m", "x"]}
_GPU = {"kind": "GPU", "gpu": {"hardwareTypes": ["nvidia.com/gpu-t4"]}}


def _local(data: dict[str, Any]) -> requests.LocalInferenceServiceCreateRequest:
    return requests.LocalInferenceServiceCreateRequest.model_validate(data)


def test_the_runner_of_a_mock() -> None:
    runner = _local(_MOCK).to_runner()
    assert runner.json() == '{"resources":{},"kind":"mock","nodes":1}'


def test_the_runner_of_a_command_reads_as_the_platforms() -> None:
    runner = _local(
        {
            **_COMMAND,
            "args": ["--x"],
            "env": [{"name": "PORT", "value": "8000"}],
            "workingDir": "/srv//app/",
        }
    ).to_runner()
    assert runner.dict(mode="json") == {
        "args": ["--x"],
        "command": ["python", "-m", "x"],
        "env": [{"name": "PORT", "value": "8000"}],
        "resources": {},
        "workingDir": "/srv/app",
        "kind": "mock",
        "nodes": 1,
    }
    entity = valid_instance("InferenceService", "minimal")
    entity["runner"] = runner.dict(mode="json")
    assert InferenceService.model_validate(entity).runner == runner
    assert InferenceServiceRunner.model_validate(runner.dict()) == runner


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({**_MOCK, "name": "Class"}, "name"),
        ({**_MOCK, "name": "package..Class"}, "name"),
        ({**_MOCK, "name": "package.class"}, "name"),
        ({**_MOCK, "name": "package.module:Class"}, "name"),
        ({**_MOCK, "name": ""}, "name"),
        ({**_MOCK, "args": ["x"]}, "args"),
        ({**_COMMAND, "name": ""}, "name"),
        ({**_COMMAND, "command": []}, "command"),
        ({**_COMMAND, "command": [""]}, "command"),
        ({**_COMMAND, "command": ["x", "a\0b"]}, "command"),
        ({**_COMMAND, "args": ["\0"]}, "args"),
        ({**_COMMAND, "workingDir": "a\0"}, "workingDir"),
        ({**_COMMAND, "env": [{"name": "", "value": "x"}]}, "env"),
        ({**_COMMAND, "env": [{"name": "A=B", "value": "x"}]}, "env"),
        ({**_COMMAND, "env": [{"name": "A", "value": "\0"}]}, "env"),
        ({**_COMMAND, "env": [{"name": "A", "value": "1"}] * 2}, "env"),
        ({**_COMMAND, "env": [{"name": "PORT", "value": "http"}]}, "env"),
        ({**_COMMAND, "env": [{"name": "PORT", "value": "0"}]}, "env"),
        ({**_COMMAND, "env": [{"name": "PORT", "value": "65536"}]}, "env"),
        ({**_COMMAND, "account": "a b"}, "account"),
        ({**_COMMAND, "schemaVersion": "0.1"}, "schemaVersion"),
    ],
)
def test_local_requests_are_strict(data: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _local(data)
    assert [e["loc"][0] for e in caught.value.errors()] == [place]


def test_what_is_well_formed_is_creatable() -> None:
    model = valid_instance("ModelCreateRequest", "volume")
    service = valid_instance("InferenceServiceCreateRequest", "gpu-multinode")
    session = valid_instance("InferenceSessionCreateRequest", "full")
    for request in (
        requests.ModelCreateRequest.model_validate(model),
        requests.InferenceServiceCreateRequest.model_validate(service),
        requests.InferenceSessionCreateRequest.model_validate(session),
        _local(_MOCK),
    ):
        assert requests.check_creatable(request) == []


def _with(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(base)
    node = data
    *parents, last = path.split(".")
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value
    return data


_HUB = {"repoID": "o/n", "revision": "r"}


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("source", {"kind": "GitLFS"}, "source.gitLFS"),
        ("source", {"kind": "Mock", "huggingFaceHub": _HUB}, "source.huggingFaceHub"),
        (
            "source",
            {"kind": "GitLFS", "gitLFS": {"url": "https://me:secret@host/a.git"}},
            "source.gitLFS.url",
        ),
        (
            "source",
            {"kind": "GitLFS", "gitLFS": {"url": "https://secret@host/a.git"}},
            "source.gitLFS.url",
        ),
        ("artifact", {"kind": "Volume"}, "artifact.volume"),
        ("artifact", {"kind": "Mock", "volume": {"files": []}}, "artifact.volume"),
        (
            "artifact",
            {"kind": "Volume", "volume": {"files": [{"path": "a", "size": -1}]}},
            "artifact.volume.files.0.size",
        ),
        (
            "artifact",
            {"kind": "Volume", "volume": {"files": [{"path": "a", "size": 1}] * 2}},
            "artifact.volume.files.1.path",
        ),
        ("accelerators", [{"kind": "GPU"}], "accelerators.0.gpu"),
        ("accelerators", [{**_GPU, "kind": "TPU"}], "accelerators.0.gpu"),
        ("name", "", "name"),
        ("account", "", "account"),
        ("account", "a\n", "account"),
    ],
)
def test_models_that_no_service_creates(path: str, value: Any, problem: str) -> None:
    data = _with(valid_instance("ModelCreateRequest", "minimal"), path, value)
    request = requests.ModelCreateRequest.model_validate(data)
    assert [place for place, _ in requests.check_creatable(request)] == [problem]


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("replicas", 0, "replicas"),
        ("inferenceService", "", "inferenceService"),
        ("accelerator", {"kind": "GPU"}, "accelerator.gpu"),
        (
            "accelerator",
            {"kind": "GPU", "gpu": {"hardwareTypes": [""], "count": 1}},
            "accelerator.gpu.hardwareTypes.0",
        ),
        (
            "accelerator",
            {"kind": "GPU", "gpu": {"hardwareTypes": ["x"], "count": 0}},
            "accelerator.gpu.count",
        ),
    ],
)
def test_sessions_that_no_service_creates(path: str, value: Any, problem: str) -> None:
    data = _with(valid_instance("InferenceSessionCreateRequest", "minimal"), path, value)
    request = requests.InferenceSessionCreateRequest.model_validate(data)
    assert [place for place, _ in requests.check_creatable(request)] == [problem]


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("runner.accelerator", {"kind": "GPU"}, "runner.accelerator.gpu"),
        ("interface.inputPipeline", [{"kind": "NotAnAdapter"}], "interface.inputPipeline.0"),
        (
            "outputViews",
            [
                {
                    "id": "v",
                    "viewOf": "x",
                    "schema": {"arrowSchema": ""},
                    "adapterPipeline": [
                        {"kind": "Drop", "configuration": {"fields": ["a"]}},
                        {"kind": "?"},
                    ],
                }
            ],
            "outputViews.0.adapterPipeline.1",
        ),
        (
            "interface.inputPipeline",
            [
                {"kind": "FileUpload", "configuration": {"field": "$.d"}},
                {"kind": "Drop", "configuration": {"fields": []}},
            ],
            "interface.inputPipeline",
        ),
        (
            "interface.outputPipeline",
            [{"kind": "TransformJSON", "configuration": {"text": "$.["}}],
            "interface.outputPipeline.0",
        ),
    ],
)
def test_services_that_no_service_creates(path: str, value: Any, problem: str) -> None:
    data = _with(valid_instance("InferenceServiceCreateRequest", "with-model"), path, value)
    request = requests.InferenceServiceCreateRequest.model_validate(data)
    problems = requests.check_creatable(request)
    assert len(problems) == 1
    place, rule = problems[0]
    assert place == problem or place.startswith(f"{problem}.")
    assert rule


def test_adapters_of_local_services_are_checked() -> None:
    data = _with(_MOCK, "interface.inputPipeline", [{"kind": "NotAnAdapter"}])
    ((place, _),) = requests.check_creatable(_local(data))
    assert place.startswith("interface.inputPipeline.0")
