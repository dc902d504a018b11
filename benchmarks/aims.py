"""What the router shall reach, and what it reached in this run."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.figures import Figure, table
from benchmarks.first_piece import FirstPiece
from benchmarks.pinned import CASES, Pinned
from benchmarks.routes import Routes
from benchmarks.scaling import Scaling
from benchmarks.streams import Streams
from benchmarks.telemetry import Telemetry

__all__ = ["Findings", "aims_table", "breakdown", "telemetry_table"]


class Findings(NamedTuple):
    """What the parts of a run found.

    Attributes:
        pinned: The proxies on one core, by case.
        pieces: The figure of the streamed pieces, 32 in flight.
        first_piece: The time to the first piece.
        scaling: Two workers beside one.
        streams: Thousands of streamed calls at once.
        routes: The large route table.
        inside: Seconds a call of the router's own parts.
        telemetry: The same with metrics and traces.
    """

    pinned: dict[str, Pinned]
    pieces: Figure
    first_piece: FirstPiece
    scaling: Scaling
    streams: Streams
    routes: Routes
    inside: dict[str, float]
    telemetry: Telemetry


def _row(what: str, reach: str, found: str, met: bool | str) -> list[str]:
    return [what, reach, found, met if isinstance(met, str) else "yes" if met else "**no**"]


def _where(ratios: dict[int, float], aim: float) -> bool | str:
    """Return whether all ratios reach an aim, or in words with how many calls in flight they do."""
    reached = [in_flight for in_flight, ratio in ratios.items() if ratio >= aim]
    if len(reached) in {0, len(ratios)}:
        return bool(reached)
    return f"**only** with {' and '.join(map(str, reached))}"


def aims_table(found: Findings) -> str:
    """Return the table of what is to be reached and what was."""
    envoy, exchange = found.pinned[CASES[0]].cpu, found.pinned[CASES[2]].cpu
    envoy_128, exchange_128 = found.pinned[CASES[1]].cpu, found.pinned[CASES[3]].cpu
    unary, bare = found.pinned[CASES[4]].cpu, found.pinned[CASES[5]].cpu
    added = found.first_piece.podbay - found.first_piece.direct
    streams, routes, scaling = found.streams, found.routes, found.scaling
    # A worker that does nothing else hands out so many; its client, on another core, may do less.
    pieces = 1 / _cpu_a_piece(found.pieces)
    rows = [
        _row(
            "`Exchange`, one worker on one core",
            "≥ 1.5× Envoy",
            f"{envoy / exchange:.2f}× at 32 in flight, {envoy_128 / exchange_128:.2f}× at 128",
            _where({32: envoy / exchange, 128: envoy_128 / exchange_128}, 1.5),
        ),
        _row(
            "unary `Infer`, one worker on one core",
            "≥ 0.25× Envoy",
            f"{envoy / unary:.2f}×; grpc.aio with nothing behind it {envoy / bare:.2f}×",
            envoy >= 0.25 * unary,
        ),
        _row(
            "streamed pieces, one worker",
            "≥ 30,000/s",
            f"{found.pieces.items_rate():,.0f}/s with the client, {pieces:,.0f}/s by its CPU time",
            found.pieces.items_rate() >= 30_000,
        ),
        _row("first piece of a streamed answer", "≤ 1 ms", f"{added * 1e3:.2f} ms", added <= 1e-3),
        _row(
            "two workers against one",
            "≥ 0.85 of linear",
            f"{scaling.linear:.2f}, the less busy one with {scaling.least:.0%} of the work",
            scaling.linear >= 0.85,
        ),
        _row(
            f"{streams.calls:,} streamed calls for a minute",
            "flat, ≤ 60 KB a call, none lost",
            f"{streams.per_call / 1e3:.1f} KB a call, {streams.growth:+.1%} meanwhile, "
            f"{streams.lost} lost",
            streams.per_call <= 60e3 and streams.growth <= 0.1 and not streams.lost,
        ),
        _row(
            "choice among 10,000 sessions × 4 replicas",
            "≤ 5 µs",
            f"{routes.choice * 1e6:.1f} µs",
            routes.choice <= 5e-6,
        ),
        _row(
            "a change of that table applied",
            "≤ 10 ms",
            f"{routes.change * 1e3:.3f} ms (all of it anew: {routes.snapshot * 1e3:.0f} ms)",
            routes.change <= 10e-3,
        ),
    ]
    return table(["what", "aim", "found", "reached"], rows)


def _cpu_a_piece(pieces: Figure) -> float:
    """Return the router's CPU seconds a piece."""
    per_call = pieces.cpu_per_1000() / 1000
    return per_call * pieces.rate() / pieces.items_rate()


def breakdown(found: Findings) -> str:
    """Return where the microseconds of a call go, at 32 and at 128 in flight on one core.

    What a message costs follows from the two: they differ in how many results share one.
    """
    few, many = found.pinned[CASES[2]], found.pinned[CASES[3]]
    own = sum(found.inside.values())
    message = (few.cpu - many.cpu) / (1 / few.batch - 1 / many.batch)
    rows = [
        [name, f"{seconds * 1e6:.1f}", f"{seconds * 1e6:.1f}"]
        for name, seconds in found.inside.items()
    ]
    shares = [message / case.batch for case in (few, many)]
    rows += [
        [
            f"its share of a message, which is read and written in {message * 1e6:.0f} µs",
            *(f"{share * 1e6:.1f}" for share in shares),
        ],
        [
            "the event loop and the kernel",
            *(
                f"{(case.cpu - own - share) * 1e6:.1f}"
                for case, share in zip((few, many), shares, strict=True)
            ),
        ],
        [
            "**all CPU time of the router, a call**",
            *(f"**{case.cpu * 1e6:.1f}**" for case in (few, many)),
        ],
    ]
    return table(["part", "µs at 32 in flight", "µs at 128"], rows)


def telemetry_table(found: Findings) -> str:
    """Return what metrics and traces add to a call at 32 in flight on one core."""
    plain, whole = found.telemetry.plain, found.pinned[CASES[2]].cpu
    named = {
        "neither": plain,
        "metrics": found.telemetry.metrics,
        "metrics and traces": found.telemetry.both,
    }
    rows = [
        [
            name,
            f"{seconds * 1e6:.1f}",
            f"{seconds / plain:.2f}×",
            f"{(whole + seconds - plain) / whole:.2f}×",
        ]
        for name, seconds in named.items()
    ]
    headers = [
        "with",
        "the router's own parts, µs",
        "of them without",
        "of all its CPU time a call",
    ]
    return table(headers, rows)
