"""Podbay's client beside the platform's own: its surface, and its objects."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import typing
from pathlib import Path
from typing import Any

import pytest

from podbay import AsyncClient, Client, errors
from podbay.compat.parts import PARTS
from tests.support.platform import ROOT, Platform
from tests.support.reference import reference_python

pytestmark = [pytest.mark.needs_reference_client, pytest.mark.timeout(300)]

# What Podbay does not have of the platform's client, on purpose: docs/coming-from-dyff.md says so.
MISSING = {
    # Signed addresses of stored files, which Podbay has not.
    "raw.models": {"downlinks", "finalize", "logs", "upload"},
    "raw.inferenceservices": {"downlinks", "logs"},
    "raw.inferencesessions": {"documentation", "downlinks", "edit_documentation", "logs"},
    # Groups of other kinds, and the settings of HTTP.
    "client": {
        "artifacts",
        "challenges",
        "datasets",
        "evaluations",
        "families",
        "insecure",
        "measurements",
        "methods",
        "modules",
        "pipelines",
        "quotas",
        "registry_url",
        "reports",
        "safetycases",
        "submissions",
        "teams",
        "usecases",
        "volumes",
    },
}


@pytest.fixture(scope="module")
def theirs() -> Any:
    done = _run(ROOT / "tests" / "support" / "reference_surface.py", {})
    return json.loads(done)


def _run(script: Path, environment: dict[str, str], *arguments: str) -> str:
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        # -P: the script's folder holds modules that would hide the standard library's.
        [str(reference_python("reference-client")), "-P", str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**inherited, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _group(client: Any, name: str) -> Any:
    if name == "session client":
        return client.inferencesessions.client("s", "t", endpoint="e")
    for part in name.split("."):
        client = getattr(client, part)
    return client


def _parameters(method: Any) -> dict[str, inspect.Parameter]:
    """A method's parameters; keywords that a type lists are parameters, too."""
    parameters = dict(inspect.signature(method).parameters)
    for name, parameter in list(parameters.items()):
        if parameter.kind is parameter.VAR_KEYWORD:
            del parameters[name]
            (listed,) = typing.get_args(typing.get_type_hints(inspect.unwrap(method))[name])
            for each in typing.get_type_hints(listed):
                parameters[each] = parameter.replace(
                    name=each, kind=parameter.KEYWORD_ONLY, default=None
                )
    return parameters


@pytest.mark.parametrize("face", [Client, AsyncClient])
@pytest.mark.parametrize(
    "group",
    [
        "models",
        "inferenceservices",
        "inferencesessions",
        "session client",
        "raw.models",
        "raw.inferenceservices",
        "raw.inferencesessions",
    ],
)
def test_every_method_of_theirs_takes_what_theirs_takes(theirs: Any, group: str, face: Any) -> None:
    ours = _group(face("h:1", "t"), group)
    missing = {name for name in theirs[group] if not hasattr(ours, name)}
    assert missing == MISSING.get(group, set())
    for name in theirs[group].keys() - missing:
        mine = _parameters(getattr(ours, name))
        for parameter, (kind, has_default) in theirs[group][name].items():
            assert parameter in mine, f"{name}({parameter})"
            if has_default:
                assert mine[parameter].default is not inspect.Parameter.empty, (
                    f"{name}({parameter})"
                )
            if kind == "POSITIONAL_OR_KEYWORD":
                assert mine[parameter].kind.name == kind, f"{name}({parameter})"
        required = {
            each for each, parameter in mine.items() if parameter.default is inspect.Parameter.empty
        }
        assert required <= theirs[group][name].keys(), f"{name} asks for more than theirs"


@pytest.mark.parametrize("face", [Client, AsyncClient])
def test_the_client_has_the_members_of_theirs(theirs: Any, face: Any) -> None:
    client = face("h:1", "t")
    assert {name for name in theirs["client"] if not hasattr(client, name)} == MISSING["client"]


def test_the_errors_of_theirs_can_be_caught(theirs: Any) -> None:
    names = PARTS["dyff.client.errors"].names
    assert set(theirs["errors"]) - names.keys() == {"explain"}
    found = {name: getattr(errors, home.rpartition(":")[2]) for name, home in names.items()}
    for kind in (found["HTTPError"], found["TransportError"]):
        assert issubclass(kind, found["DyffClientError"])
    assert not issubclass(found["TransportError"], found["HTTPError"])
    assert issubclass(found["HttpResponseError"], found["HTTPError"])


def test_objects_of_theirs_are_taken_by_a_real_installation(
    platform: Platform, account: str
) -> None:
    output = _run(
        ROOT / "tests" / "support" / "reference_objects.py",
        {"PYTHONPATH": str(ROOT / "client")},
        platform.endpoint(),
        platform.token,
        account,
    )
    for face, seen in json.loads(output).items():
        assert seen["model"]["name"] == "théirs", face
        assert seen["model"]["accelerators"][0]["gpu"]["hardwareTypes"] == ["x.com/gpu"]
        assert seen["model"]["artifact"]["huggingFaceCache"] == {"repoID": "a/b", "revision": "c"}
        service = seen["service"]
        assert service["model"]["id"] == seen["model"]["id"]
        assert service["runner"]["env"] == [{"name": "A", "value": "b"}]
        (adapter,) = service["interface"]["inputPipeline"]
        # A null in a configuration is kept.
        assert adapter["configuration"] == {"text": "$.prompt", "null": None}
        # Null removes, what is not named stays.
        assert seen["documentation"] == [None, "S"]
        assert seen["raw"] == [seen["model"]["id"]]
        assert seen["nested"] == "nested"
        for items in (seen["inference"], seen["adapters"]):
            assert items
            for item in items[0] if isinstance(items[0], list) else items:
                assert item["completion"].startswith("Open the pod bay doors"), items
