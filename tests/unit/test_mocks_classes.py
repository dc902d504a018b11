import asyncio
import inspect
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from podbay.local import mocks
from podbay.local.mocks import (
    Echo,
    Flaky,
    LateStart,
    Mock,
    Slow,
    StreamingTextCompletion,
    TextCompletion,
    mock_name,
)

PROMPT = "Open the pod bay doors, Hal!"
ALL = [TextCompletion, StreamingTextCompletion, Echo, Slow, Flaky, LateStart]


async def pieces_of(mock: StreamingTextCompletion, text: str) -> list[str]:
    return [piece["text"] async for piece in mock.infer("generate", {"text": text})]


@pytest.mark.parametrize("kind", ALL)
def test_every_mock_has_an_interface_of_text(kind: type[Mock]) -> None:
    mock = kind()
    interface = mock.interface
    assert interface.endpoint == kind.endpoint
    assert interface.outputSchema == mock.schema
    assert interface.inputPipeline is None
    assert interface.outputPipeline is None
    assert mock.schema.dyffSchema is not None
    assert mock.schema.dyffSchema.components == ["text.Text"]
    assert inspect.getdoc(kind)


def test_a_completion_has_two_answers_that_begin_with_the_text() -> None:
    answers = TextCompletion().infer("generate", {"text": PROMPT, "temperature": 3})
    assert len(answers) == 2
    for answer in answers:
        assert set(answer) == {"text"}
        assert answer["text"].startswith(PROMPT + " ")
        assert len(answer["text"]) > len(PROMPT) + 1


def test_completions_come_from_five_cases_of_equal_weight() -> None:
    mock = TextCompletion()
    mock.random.seed(7)
    answers = [
        answer["text"].removeprefix(PROMPT)
        for _ in range(5000)
        for answer in mock.infer("generate", {"text": PROMPT})
    ]
    counts = {answer: answers.count(answer) for answer in set(answers)}
    fixed = sorted(counts, key=lambda answer: counts[answer], reverse=True)[:4]
    assert all(1800 < counts[answer] < 2200 for answer in fixed)
    others = {answer: count for answer, count in counts.items() if answer not in fixed}
    quotes = {answer for answer in others if '"' in answer}
    assert quotes == {
        ' Did you say "HAL!"?',
        ' Did you say "DOORS, HAL!"?',
        ' Did you say "BAY DOORS, HAL!"?',
    }
    assert len(others) == 4
    assert 850 < sum(others[answer] for answer in quotes) < 1150


def test_the_two_answers_are_drawn_independently() -> None:
    mock = TextCompletion()
    mock.random.seed(7)
    pairs = [mock.infer("generate", {"text": PROMPT}) for _ in range(200)]
    same = sum(first == second for first, second in pairs)
    assert 0 < same < 100


@pytest.mark.parametrize("text", ["", " ", "one"])
def test_a_text_of_few_words_is_completed(text: str) -> None:
    mock = TextCompletion()
    for _ in range(200):
        for answer in mock.infer("generate", {"text": text}):
            assert answer["text"].startswith(text)
            assert '""' not in answer["text"]


def test_the_choices_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seeded(TextCompletion):
        seed = 3

    def answers(mock: TextCompletion) -> list[str]:
        found = [mock.infer("generate", {"text": PROMPT}) for _ in range(20)]
        return [answer["text"] for pair in found for answer in pair]

    by_attribute = answers(Seeded())
    assert answers(Seeded()) == by_attribute
    unseeded = TextCompletion()
    assert answers(unseeded) != by_attribute
    unseeded.random = random.Random(3)
    assert answers(unseeded) == by_attribute
    monkeypatch.setenv("PODBAY_MOCK_SEED", "4")
    assert answers(TextCompletion()) == answers(Seeded()) != by_attribute


@pytest.mark.parametrize(
    ("endpoint", "request_", "error"),
    [
        ("complete", {"text": "a"}, ValueError),
        ("generate", {"prompt": "a"}, KeyError),
        ("generate", {"text": 3}, TypeError),
        ("generate", {"text": None}, TypeError),
        ("generate", ["a"], TypeError),
        ("generate", "a", TypeError),
    ],
)
async def test_a_request_that_is_not_one_is_refused(
    endpoint: str, request_: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        TextCompletion().infer(endpoint, request_)
    with pytest.raises(error):
        async for _ in StreamingTextCompletion().infer(endpoint, request_):
            pass


@pytest.mark.parametrize("text", [PROMPT, "  two  spaces ", "line\nline", ""])
async def test_the_pieces_joined_are_one_completion(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PODBAY_MOCK_DELAY_SECONDS", "0")
    monkeypatch.setenv("PODBAY_MOCK_SEED", "5")
    pieces = await pieces_of(StreamingTextCompletion(), text)
    expected = TextCompletion().infer("generate", {"text": text})[0]["text"]
    assert "".join(pieces) == expected
    assert len(pieces) == len(expected.split())


async def test_an_echo_is_one_answer() -> None:
    assert Echo().infer("echo", {"a": 1}) == {"a": 1}
    assert Echo().infer("echo", [1, 2]) == [[1, 2]]
    assert Echo().infer("echo", None) is None
    with pytest.raises(ValueError, match="no endpoint 'other', only 'echo'"):
        Echo().infer("other", {})


async def test_slow_waits_for_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(mocks.asyncio, "sleep", sleep)
    assert await Slow().infer("slow", {"seconds": 3}) == {"seconds": 3}
    assert await Slow().infer("slow", {}) == {"seconds": 1.0}
    monkeypatch.setenv("PODBAY_MOCK_SLOW_SECONDS", "2.5")
    assert await Slow().infer("slow", "anything") == {"seconds": 2.5}
    assert waited == [3, 1.0, 2.5]
    for seconds, error in [("3", TypeError), (True, TypeError), (-1, ValueError)]:
        with pytest.raises(error):
            await Slow().infer("slow", {"seconds": seconds})


async def test_slow_can_be_cancelled() -> None:
    waiting = asyncio.create_task(Slow().infer("slow", {"seconds": 3600}))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_flaky_fails_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def failures(mock: Flaky) -> int:
        count = 0
        for number in range(1000):
            try:
                assert mock.infer("flaky", number) == number
            except RuntimeError:
                count += 1
        return count

    monkeypatch.setenv("PODBAY_MOCK_SEED", "1")
    assert 400 < failures(Flaky()) < 600
    for rate, expected in [("0", 0), ("1", 1000)]:
        monkeypatch.setenv("PODBAY_MOCK_FAILURE_RATE", rate)
        assert failures(Flaky()) == expected


def test_a_late_start_is_as_late_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(mocks.time, "sleep", waited.append)
    LateStart()
    monkeypatch.setenv("PODBAY_MOCK_START_SECONDS", "12")
    LateStart()
    assert waited == [0.0, 12.0]


@pytest.mark.parametrize(
    ("kind", "name", "text", "message"),
    [
        (TextCompletion, "PODBAY_MOCK_SEED", "x", "is 'x', not a whole number"),
        (StreamingTextCompletion, "PODBAY_MOCK_DELAY_SECONDS", "-1", "is -1, not from 0 to 86400"),
        (Slow, "PODBAY_MOCK_SLOW_SECONDS", "inf", "is inf, not from"),
        (Flaky, "PODBAY_MOCK_FAILURE_RATE", "1.5", "is 1.5, not from 0 to 1"),
        (LateStart, "PODBAY_MOCK_START_SECONDS", "nan", "is nan, not from"),
    ],
)
def test_a_setting_that_is_wrong_is_refused_by_name(
    kind: type[Mock], name: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        kind()


class Outer:
    class Inner(Echo):
        pass


def test_the_name_of_a_mock_is_its_import_path() -> None:
    assert mock_name(TextCompletion) == "podbay.local.mocks.TextCompletion"
    assert mock_name(Outer.Inner) == "tests.unit.test_mocks_classes.Outer.Inner"


def test_a_mock_that_no_replica_can_import_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Echo):
        pass

    with pytest.raises(ValueError, match="defined inside a function"):
        mock_name(Local)
    with pytest.raises(TypeError, match="not an object of type Echo"):
        mock_name(Echo())  # type: ignore[arg-type]  # that is the point
    script = type("Script", (Echo,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(ValueError, match="defined in the main script"):
        mock_name(script)
    assert mock_name(script, allow_main=True) == "__main__.Script"


def test_a_mock_needs_neither_the_services_nor_a_schema_to_start() -> None:
    program = (
        "import sys, podbay.local.mocks as mocks; mocks.TextCompletion();"
        "heavy = {'podbay_kit', 'grpc', 'pydantic', 'podbay.schema'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
