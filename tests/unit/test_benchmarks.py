"""What the benchmarks make of what they measured."""

import pytest

from benchmarks.aims import Findings, aims_table, telemetry_table
from benchmarks.figures import Figure, Sample
from benchmarks.first_piece import FirstPiece
from benchmarks.peers.report import page
from benchmarks.peers.systems import MLSERVER
from benchmarks.peers.texts import SHORT, TEN_KB, text_of
from benchmarks.pinned import CASES, Pinned
from benchmarks.routes import Routes
from benchmarks.scaling import Scaling
from benchmarks.soak import Outcome
from benchmarks.streams import Streams
from benchmarks.telemetry import Telemetry

MIB = 1 << 20


def outcome(**changes: object) -> Outcome:
    values = {"calls": 100, "memory": [60 * MIB, 62 * MIB], "files": [80, 70], **changes}
    return Outcome(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"failed": {"REPLICA_CONNECTION_LOST": 3}, "kills": 1},
        {"memory": [60 * MIB, 70 * MIB]},
    ],
)
def test_a_soak_that_went_well_has_no_problems(changes: dict[str, object]) -> None:
    assert outcome(**changes).problems() == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"calls": 0}, "no call"),
        ({"wrong": 1}, "wrong"),
        ({"failed": {"REPLICA_CONNECTION_LOST": 1}}, "without a cause"),
        ({"failed": {"INTERNAL": 1}, "kills": 1}, "INTERNAL"),
        ({"memory": [60 * MIB, 90 * MIB]}, "memory grew"),
        ({"files": [80, 400]}, "open files grew"),
    ],
)
def test_a_soak_tells_each_problem(changes: dict[str, object], told: str) -> None:
    (problem,) = outcome(**changes).problems()
    assert told in problem


def test_the_texts_are_as_long_as_they_say() -> None:
    assert [len(text_of(characters)) for characters in (SHORT, TEN_KB)] == [SHORT, TEN_KB]


def figure(case: str, in_flight: int, rate: float, *, p50: float = 0.001) -> Figure:
    sample = Sample(int(rate), 1.0, p50, 2 * p50, items=50 * int(rate), cpu=0.5, load_cpu=0.1)
    return Figure(case, in_flight, [sample])


@pytest.mark.parametrize(("rate", "verdict"), [(3000.0, "reached"), (2999.0, "NOT reached")])
def test_the_page_of_the_peers_says_whether_the_aim_is_reached(rate: float, verdict: str) -> None:
    figures = [
        figure(f"{system} | {text}", in_flight, value)
        for system, value in (("Podbay", rate), (MLSERVER, 1000.0))
        for text in ("short", "10 KB")
        for in_flight in (1, 32)
    ]
    names = ("date", "python", "cores", "rounds", "seconds", "short", "pins", "load")
    written = page(figures, dict.fromkeys(names, "x"))
    assert f"{rate / 1000:.2f}×** MLServer's requests per second (the aim is 3×: {verdict})" in (  # noqa: RUF001 # as the page has it
        written
    )
    assert f"| {MLSERVER} | 10 KB | 32 |" in written


def findings(exchange: float) -> Findings:
    seconds = (30e-6, 30e-6, exchange, exchange, 300e-6, 160e-6)
    return Findings(
        pinned={name: Pinned(1 / cpu, cpu, 1.0) for name, cpu in zip(CASES, seconds, strict=True)},
        pieces=figure("podbay pieces", 32, 700),
        first_piece=FirstPiece(0.001, 0.0025),
        scaling=Scaling(30e-6, 31e-6, 0.97, 0.5),
        streams=Streams(5000, 0, 60 * MIB, 90 * MIB, 91 * MIB),
        routes=Routes(2e-6, 12e-6, 50e-6, 0.25),
        inside={"all": 11e-6},
        telemetry=Telemetry(10e-6, 11e-6, 30e-6),
    )


@pytest.mark.parametrize(("exchange", "reached"), [(19.9e-6, "yes"), (20.1e-6, "**no**")])
def test_the_aims_are_compared_with_what_was_found(exchange: float, reached: str) -> None:
    lines = {
        line.split(" | ")[0].removeprefix("| "): line.rsplit(" | ", 1)[1].removesuffix(" |")
        for line in aims_table(findings(exchange)).splitlines()[2:]
    }
    assert lines == {
        "`Exchange`, one worker on one core": reached,
        "unary `Infer`, one worker on one core": "**no**",
        "streamed pieces, one worker": "yes",
        "first piece of a streamed answer": "**no**",
        "two workers against one": "yes",
        "5,000 streamed calls for a minute": "yes",
        "choice among 10,000 sessions × 4 replicas": "yes",  # noqa: RUF001 # as the page has it
        "a change of that table applied": "yes",
    }


def test_what_telemetry_costs_is_compared_with_a_whole_call() -> None:
    rows = telemetry_table(findings(20e-6)).splitlines()[2:]
    assert rows == [
        "| neither | 10.0 | 1.00× | 1.00× |",  # noqa: RUF001 # as the page has it
        "| metrics | 11.0 | 1.10× | 1.05× |",  # noqa: RUF001 # as the page has it
        "| metrics and traces | 30.0 | 3.00× | 2.00× |",  # noqa: RUF001 # as the page has it
    ]
