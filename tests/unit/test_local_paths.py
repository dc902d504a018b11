"""The path by which a replica imports a user's class."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from podbay._core.operations import Operation
from podbay.errors import InvalidRequestError
from podbay.local.mocks import Echo, TextCompletion
from podbay.local.platform import LocalInferenceServices
from podbay.local.python_path import absolute_python_path, import_path, own_python_path


class Outer:
    class Inner(Echo):
        pass


@pytest.fixture
def in_the_main_script(monkeypatch: pytest.MonkeyPatch) -> type:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    return type("Mine", (Echo,), {"__module__": "__main__"})


def test_classes_of_modules_have_their_import_path():
    assert import_path(TextCompletion) == "podbay.local.mocks.TextCompletion"
    assert import_path(Outer.Inner) == "tests.unit.test_local_paths.Outer.Inner"


def test_a_class_of_the_main_script_is_one_of_the_module_that_its_file_is(
    in_the_main_script: type, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/home/me/audit.py", raising=False)
    assert import_path(in_the_main_script) == "audit.Mine"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/home/me/my-audit.py")
    with pytest.raises(ValueError, match=r"defined in my-audit\.py.*move the class into a module"):
        import_path(in_the_main_script)


def test_what_no_other_process_can_import_says_what_to_do(
    in_the_main_script: type, monkeypatch: pytest.MonkeyPatch
):
    class Local(Echo):
        pass

    with pytest.raises(ValueError, match="move it to the top of its module"):
        import_path(Local)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(ValueError, match="notebook.*%%writefile"):
        import_path(in_the_main_script)


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


def test_a_mock_is_created_with_the_path_that_it_needs():
    recorder = Recorder()
    services = LocalInferenceServices(cast("Any", recorder), "local")

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


def test_a_mock_that_cannot_be_is_refused_at_once():
    class Local(Echo):
        pass

    class Silent:
        pass

    services = LocalInferenceServices(cast("Any", Recorder()), "local")
    with pytest.raises(InvalidRequestError, match="move it to the top of its module"):
        services.create_mock(Local)
    with pytest.raises(InvalidRequestError, match="cannot be imported here"):
        services.create_mock("no_such_module.Mock")
    with pytest.raises(InvalidRequestError, match="must be a class|not an object of type"):
        services.create_mock(cast("Any", Echo()))
    Silent.__qualname__ = "Silent"
    with pytest.raises(InvalidRequestError, match="Silent has no property `interface`"):
        services.create_mock(Silent)
