import pytest

from podbay_kit.replica_server import MockFailedError, MockNotImportableError, load_mock
from tests.support import replica_mocks

MODULE = "tests.support.replica_mocks"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{MODULE}.Sample", replica_mocks.Sample),
        (f"{MODULE}:Sample", replica_mocks.Sample),
        (f"{MODULE}.Sample.Inner", replica_mocks.Sample.Inner),
        (f"{MODULE}:Sample.Inner", replica_mocks.Sample.Inner),
    ],
)
def test_the_class_at_a_path_is_built(path: str, expected: type) -> None:
    assert type(load_mock(path)) is expected


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("", "is not an import path"),
        ("Sample", "is not an import path"),
        ("a..b", "is not an import path"),
        ("a b.C", "is not an import path"),
        (f"{MODULE}:", "is not an import path"),
        ("no_such_package.Mock", "there is no module 'no_such_package'"),
        ("no_such_package:Mock", "there is no module 'no_such_package'"),
        ("tests.support.no_such_module:Mock", "there is no module 'tests.support.no_such_module'"),
        ("tests.support.no_such_module.Mock", "has no 'no_such_module'"),
        (MODULE, "is a module, not a class"),
        (f"{MODULE}.Sampel", "did you mean 'Sample'?"),
        (f"{MODULE}.Sample.Outer", "the class 'Sample' has no 'Outer'"),
        (f"{MODULE}.not_a_class", "is an object of type int, not a class"),
        (f"{MODULE}.NoInfer", "has no method infer"),
        (
            "tests.support.replica_broken_import.Mock",
            (
                "importing 'tests.support.replica_broken_import' failed: ModuleNotFoundError: "
                "No module named 'a_package_that_nobody_has'"
            ),
        ),
    ],
)
def test_what_cannot_be_imported_says_why(path: str, text: str) -> None:
    with pytest.raises(MockNotImportableError) as caught:
        load_mock(path)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_import_error_names_the_line() -> None:
    with pytest.raises(MockNotImportableError, match=r"replica_broken_import\.py:3\)"):
        load_mock("tests.support.replica_broken_import:Mock")


@pytest.mark.parametrize(
    ("name", "text"),
    [("BadConstructor", "OSError: the weights are gone"), ("LeavesAtOnce", "SystemExit: 3")],
)
def test_a_constructor_that_fails_is_told_apart(name: str, text: str) -> None:
    with pytest.raises(MockFailedError) as caught:
        load_mock(f"{MODULE}.{name}")
    assert f"building {MODULE}.{name} failed: {text} (" in str(caught.value)
