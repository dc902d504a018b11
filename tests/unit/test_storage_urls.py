"""URLs of databases: which are taken, from where, and that no password is shown."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from podbay_kit.storage import Database, chosen_database, database_options
from podbay_kit.storage_errors import DatabaseUnusableError
from podbay_kit.storage_urls import postgresql_url, shown

SECRET = "s3cr3t-of-the-database"
URL = f"postgresql://pod:{SECRET}@db.example:5433/bay"


def choose(*arguments: str, **environment: str) -> str | None:
    parser = argparse.ArgumentParser()
    database_options(parser, "registry")
    return chosen_database(parser.parse_args(arguments), "registry", environment)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_service_has_a_schema_of_its_own(scheme: str) -> None:
    text = URL.replace("postgresql", scheme)
    assert postgresql_url(text, "registry") == (
        f"postgresql+psycopg://pod:{SECRET}@db.example:5433/bay?schema=podbay_registry"
    )
    other = postgresql_url(f"{text}?schema=acme&sslmode=require", "session_manager")
    assert other.endswith("/bay?schema=acme_session_manager&sslmode=require")
    assert shown(other) == "postgresql://pod@db.example:5433/bay (schema acme_session_manager)"


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"mysql://u:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h:{SECRET}/d",
        f"postgresql://u:{SECRET}@h/d?schema=A-B",
        f"postgresql://u:{SECRET}@h/d?schema=a&schema=b",
        f"sqlite:///{SECRET}",
        f"postgresql://h/d?password={SECRET}",
        f"postgresql://h/d?password={SECRET}&password={SECRET}",
        "",
    ],
)
def test_what_is_no_such_url_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(DatabaseUnusableError) as caught:
        postgresql_url(text, "registry")
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_passwords_are_shown_nowhere() -> None:
    for text in (URL, f"postgresql://db.example/bay?user=pod&password={SECRET}"):
        url = postgresql_url(text, "registry")
        assert SECRET not in shown(url)
        database = Database(url)
        assert SECRET not in repr(database._engine) + repr(database._engine.url)


def test_where_the_url_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "database"
    file.touch(mode=0o600)
    file.write_text(f"{URL}\n")
    from_file = choose("--database-file", str(file), PODBAY_DATABASE="postgresql://other/d")
    assert from_file == postgresql_url(URL, "registry")
    assert choose() is None
    assert choose(PODBAY_DATABASE=URL) == from_file
    own = choose(PODBAY_DATABASE="postgresql://other/d", PODBAY_REGISTRY_DATABASE=URL)
    assert own == from_file
    plain = "postgresql://pod@db.example/bay"
    assert choose("--database", plain, PODBAY_DATABASE=URL) == postgresql_url(plain, "registry")
    # What is started by the service inherits none of it.
    environment = {"PODBAY_DATABASE": URL, "PODBAY_REGISTRY_DATABASE": URL, "HOME": "/"}
    options = argparse.Namespace(database=None, database_file=None)
    chosen_database(options, "registry", environment)
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("url", [URL, f"postgresql://db.example/bay?user=pod&password={SECRET}"])
def test_a_password_on_the_command_line_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUnusableError, match="list of processes") as caught:
        choose("--database", url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [(URL, 0o640, "open to others"), ("", 0o600, "is empty"), (None, 0o600, "cannot be read")],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str | None, mode: int, words: str) -> None:
    file = tmp_path / "database"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(DatabaseUnusableError, match=words):
        choose("--database-file", str(file))
