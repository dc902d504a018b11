from __future__ import annotations

import pytest

from podbay_registry.tokens import hash_secret, id_of, is_secret, new_secret


def test_a_secret_names_its_token_and_is_checked_by_its_digest() -> None:
    made = new_secret()
    assert made.secret.startswith(f"{made.id}.")
    assert id_of(made.secret) == made.id
    assert is_secret(made.secret, made.digest)
    assert made.secret.partition(".")[2] not in made.digest
    # 32 random bytes are 43 characters of base64.
    assert len(made.secret.partition(".")[2]) == 43


def test_secrets_differ() -> None:
    made = [new_secret() for _ in range(100)]
    assert len({each.secret for each in made}) == len({each.id for each in made}) == 100


@pytest.mark.parametrize("change", [slice(0, -1), slice(1, None), slice(None, None, -1)])
def test_a_damaged_secret_is_none(change: slice) -> None:
    made = new_secret()
    damaged = made.secret[change]
    assert not is_secret(damaged, made.digest)
    assert id_of(damaged) is None


@pytest.mark.parametrize("text", ["", ".", "pbt_", "pbt_0.", "x" * 100_000, "\ud800", "pbt_é.é"])
def test_other_texts_are_no_secrets(text: str) -> None:
    assert id_of(text) is None
    assert not is_secret(text, hash_secret("something"))


def test_the_last_character_counts() -> None:
    made = new_secret()
    other = made.secret[:-1] + ("A" if made.secret[-1] != "A" else "B")
    assert id_of(other) == made.id
    assert not is_secret(other, made.digest)
