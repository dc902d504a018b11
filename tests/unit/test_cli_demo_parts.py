"""What the demo shows where nobody watches, and what it takes for a failure."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from podbay.demo import play
from podbay.demo.classification import INTERFACE, _bodies, _show_kinds
from podbay.demo.replacement import _judge, _Traffic
from podbay.demo.scene import DemoFailedError, Scene
from podbay.demo.show import Show
from podbay.local.faults import LocalError
from podbay.local.installation import Leftover
from podbay.schema.platform import InferenceInterface


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def scene(output: io.StringIO) -> Scene:
    nothing: Any = None
    return Scene(nothing, Show(output), "acct")


def test_progress_is_lines_without_a_terminal(output: io.StringIO):
    show = Show(output)
    with show.bar("files", 8) as bar:
        for _ in range(8):
            bar.advance()
    with show.status("waits") as status:
        for text in ("one", "one", "two"):
            status.update(text)
    assert output.getvalue().split("\n") == [
        *(f"  files: {n} of 8" for n in (2, 4, 6, 8)),
        *("  waits", "  one", "  two", ""),
    ]


def test_text_that_looks_like_markup_is_shown_as_it_is(output: io.StringIO):
    Show(output).line("a [bold]b[/bold]")
    assert output.getvalue() == "  a [bold]b[/bold]\n"


def test_kinds_are_ranked_with_count_mean_score_and_examples(scene: Scene, output: io.StringIO):
    _show_kinds(scene, {"python": [(0.5, "a.py"), (1.0, "b.py")], "xml": [(0.9, "c.xml")]})
    rows = [line.split() for line in output.getvalue().splitlines() if line.strip()]
    assert rows == [
        ["type", "files", "mean", "score", "examples"],
        ["python", "2", "0.750", "a.py,", "b.py"],
        ["xml", "1", "0.900", "c.xml"],
    ]


def test_a_file_goes_in_as_an_upload(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"hello")
    assert list(_bodies([tmp_path / "a.txt"])) == [{"name": "a.txt", "data": "aGVsbG8="}]
    assert InferenceInterface.model_validate(INTERFACE).endpoint == "classify"


def traffic(succeeded: int, **failed: int) -> _Traffic:
    nothing: Any = None
    return _Traffic(nothing, succeeded=succeeded, failed=Counter(failed))


def test_calls_that_the_killed_replica_worked_on_may_fail(scene: Scene, output: io.StringIO):
    _judge(scene, traffic(120, REPLICA_CONNECTION_LOST=2), calls_before=100)
    assert "20 succeeded, 2 failed" in output.getvalue()


@pytest.mark.parametrize(
    ("counted", "why"),
    [
        (traffic(120, INTERNAL=1), "does not explain"),
        (traffic(120, REPLICA_CONNECTION_LOST=9), "were in flight"),
        (traffic(100), "no call succeeded"),
    ],
)
def test_any_other_outcome_fails_the_demo(scene: Scene, counted: _Traffic, why: str):
    with pytest.raises(DemoFailedError, match=why):
        _judge(scene, counted, calls_before=100)


class FakeStage:
    """Services that do not start, and what is left of them."""

    left = Leftover()

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def start(self) -> None:
        raise LocalError("START_FAILED", "the registry ended", evidence=["oh no"], way_out="look")

    def stop(self) -> Leftover:
        return self.left


def test_a_demo_that_cannot_start_fails_with_the_evidence(
    output: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(play, "BackgroundInstallation", FakeStage)
    assert play.play(Show(output)) == 1
    for part in ("the registry ended", "| oh no", "| look", "The demo FAILED"):
        assert part in output.getvalue()


def test_a_process_that_is_left_fails_the_demo(
    output: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    class Untidy(FakeStage):
        left = Leftover(killed=[4711])

        def start(self) -> None:
            raise DemoFailedError("stop here")

    monkeypatch.setattr(play, "BackgroundInstallation", Untidy)
    assert play.play(Show(output)) == 1
    assert "4711" in output.getvalue()
    assert "no process is left" not in output.getvalue()
