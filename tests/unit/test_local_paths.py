"""The path by which a replica imports a user's class."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from podbay._core.operations import Operation
from podbay.errors import InvalidRequestError
from podbay.local.mocks import Echo, TextCompletion
from podbay.local.python_path import (
    absolute_python_path,
    importable_elsewhere,
    own_python_path,
)
from podbay.local.services import LocalInferenceServices


class Outer:
    class Inner(Echo):
        pass


def test_what_another_process_can_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert importable_elsewhere(TextCompletion)
    assert importable_elsewhere(Outer.Inner)

    class Local(Echo):
        pass

    assert not importable_elsewhere(Local)
    for main in ("__main__", "__mp_main__"):
        assert not importable_elsewhere(type("Mine", (Echo,), {"__module__": main}))
    # Of the name of one that is there, and another: as after a reload.
    assert not importable_elsewhere(type("Outer", (Echo,), {"__module__": __name__}))
    # Of a module that is in no folder of the path, or in none at all.
    module = ModuleType("made_up_module")
    monkeypatch.setitem(sys.modules, "made_up_module", module)
    module.Mine = type("Mine", (Echo,), {"__module__": "made_up_module"})  # type: ignore[attr-defined]
    assert not importable_elsewhere(module.Mine)
    (tmp_path / "made_up_module.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importable_elsewhere(module.Mine)


def test_a_replica_gets_the_users_folders_and_not_the_interpreters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    missing = str(tmp_path / "not-there")
    monkeypatch.setattr(sys, "path", ["", "here", missing, *sys.path])
    entries = own_python_path().split(os.pathsep)
    assert entries[:2] == [str(tmp_path), str(tmp_path / "here")]
    assert missing not in entries
    assert not any(entry.endswith(("site-packages", "lib-dynload")) for entry in entries)
    assert str(Path(os.__file__).parent) not in entries


def test_a_relative_pythonpath_means_the_same_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["mine", "", "/other"]))
    assert absolute_python_path() == os.pathsep.join([str(tmp_path / "mine"), "/other"])
    monkeypatch.delenv("PYTHONPATH")
    assert absolute_python_path() == ""


class Recorder:
    """Takes what a client would send."""

    def __init__(self) -> None:
        self.request: Any = None

    def run(self, operation: Operation[Any], timeout: float | None = None) -> None:
        self.request = operation.request.inference_service


class Offers:
    """Takes what a process would offer."""

    def __init__(self) -> None:
        self.offered: list[type] = []

    def offer(self, mock_type: type) -> str:
        self.offered.append(mock_type)
        return "the-key"


def test_a_mock_is_created_with_the_path_that_it_needs():
    recorder = Recorder()
    services = LocalInferenceServices(cast("Any", recorder), "local", cast("Any", Offers()))

    def created(*arguments: Any, **options: Any) -> dict[str, str]:
        services.create_mock(*arguments, **options)
        return {variable.name: variable.value for variable in recorder.request.env}

    assert created(Outer.Inner, env={"MINE": "1"}) == {
        "PYTHONPATH": own_python_path(),
        "MINE": "1",
    }
    assert recorder.request.name == "tests.unit.test_local_paths.Outer.Inner"
    assert recorder.request.account == "local"
    assert recorder.request.interface.endpoint == "echo"
    # A path that was given is the whole path.
    assert created(Outer.Inner, env={"PYTHONPATH": "/mine"}) == {"PYTHONPATH": "/mine"}
    # Podbay's own need none, so that they can start within the session manager.
    assert created(TextCompletion, account="other") == {}
    assert recorder.request.account == "other"
    assert created("podbay.local.mocks.Echo") == {}


def test_a_class_of_this_process_is_offered_by_it():
    class Local(Echo):
        pass

    recorder, offers = Recorder(), Offers()
    services = LocalInferenceServices(cast("Any", recorder), "local", cast("Any", offers))
    services.create_mock(Local)
    services.create_mock(Outer.Inner, here=True)
    services.create_mock("podbay.local.mocks.Echo", here=True)
    assert offers.offered == [Local, Outer.Inner, Echo]
    (variable,) = recorder.request.env
    assert (variable.name, variable.value) == ("PODBAY_MOCK_KEY", "the-key")
    assert recorder.request.name == "podbay.local.mocks.Echo"


def test_a_mock_that_cannot_be_is_refused_at_once():
    class Local(Echo):
        pass

    class Silent:
        def infer(self) -> None: ...

    offers = Offers()
    services = LocalInferenceServices(cast("Any", Recorder()), "local", cast("Any", offers))
    with pytest.raises(InvalidRequestError, match="move it into a module"):
        services.create_mock(Local, here=False)
    with pytest.raises(InvalidRequestError, match="cannot be imported here"):
        services.create_mock("no_such_module.Mock")
    with pytest.raises(InvalidRequestError, match="must be a class"):
        services.create_mock(cast("Any", Echo()))
    with pytest.raises(InvalidRequestError, match="Silent has no property `interface`"):
        services.create_mock(Silent)
    assert offers.offered == []
