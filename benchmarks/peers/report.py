"""The page that a run writes."""

from __future__ import annotations

from benchmarks.figures import Figure, table
from benchmarks.peers.systems import MLSERVER

__all__ = ["page"]

_PAGE = """# Performance beside other model servers

Written by `make bench-peers` on {date}: Python {python}, {cores} cores that the client and all
servers share; medians of {rounds} rounds of {seconds} s a case. In each round every system is
started, loaded and stopped, one after the other. The machine's load average was {load} before it:
the more of it is other work, the less the figures say. Those of another machine differ; the ratios
are what to compare.

Every system echoes a text: a short one of {short} characters, and one of 10 KB. Each has an
environment of its own, made from `requirements/peers/` ({pins}). Each is loaded by an asynchronous
Python client on uvloop, which checks each answer: Podbay by its own, MLServer by its gRPC stubs,
the others by aiohttp. In Podbay and Ray Serve the function runs in a process of its own behind a
router or proxy; in MLServer it runs in the server's process, in BentoML in a worker's. Access logs
of the peers are off, and so are MLServer's and BentoML's metrics; apart from that they run with
their defaults.

*CPU* is of all processes of the system, in seconds per 1,000 requests, and *client CPU* the load's.
*Memory* is the most that was seen after a load, of all processes together, shared pages
counted once.

{main}

{summary}

## How to read it
- **Podbay** is what a user gets: the platform's services, one router worker, and a mock in the
  replica server that comes with it. **Podbay, lean replica** has a bare web server
  (`benchmarks/echo_replica.py`) for its replica, so that more of the figure is Podbay's own.
- All share {cores} cores, so a system of several processes gains nothing from being several here.
"""

_REACH = 3.0


def page(figures: list[Figure], facts: dict[str, str]) -> str:
    """Return the page of a run.

    Args:
        figures: All cases; a case is "system | text".
        facts: What the run was made on.
    """
    by_case = {(figure.case, figure.in_flight): figure for figure in figures}
    headers = [
        "system",
        "text",
        "in flight",
        "p50 ms",
        "p99 ms",
        "requests/s",
        "of MLServer",
        "CPU",
        "client CPU",
        "memory MiB",
    ]
    order = sorted(figures, key=lambda figure: (_text(figure) != "short", figure.in_flight))
    rows = [
        _row(figure, by_case[f"{MLSERVER} | {_text(figure)}", figure.in_flight]) for figure in order
    ]
    return _PAGE.format(main=table(headers, rows), summary=_summary(by_case), **facts)


def _text(figure: Figure) -> str:
    return figure.case.split(" | ")[1]


def _row(figure: Figure, mlserver: Figure) -> list[str]:
    return [
        *figure.case.split(" | "),
        str(figure.in_flight),
        f"{figure.p50() * 1e3:.2f}",
        f"{figure.p99() * 1e3:.2f}",
        f"{figure.rate():,.0f}",
        f"{figure.rate() / mlserver.rate():.2f}×",
        f"{figure.cpu_per_1000():.3f}",
        f"{figure.load_cpu_per_1000():.3f}",
        f"{figure.memory() / (1 << 20):,.0f}",
    ]


def _summary(by_case: dict[tuple[str, int], Figure]) -> str:
    lines = []
    for text in ("short", "10 KB"):
        ours, theirs = by_case[f"Podbay | {text}", 32], by_case[f"{MLSERVER} | {text}", 32]
        ratio = ours.rate() / theirs.rate()
        verdict = "reached" if ratio >= _REACH else "NOT reached"
        cpu = _all_cpu(theirs) / _all_cpu(ours)
        lines.append(
            f"- {text} text, 32 in flight: **{ratio:.2f}×** MLServer's requests per second "
            f"(the aim is {_REACH:.0f}×: {verdict}). MLServer needs {cpu:.2f}× the CPU time a "
            "call, client included, and can use but one core for its server."
        )
        ours, theirs = by_case[f"Podbay | {text}", 1], by_case[f"{MLSERVER} | {text}", 1]
        verdict = "reached" if ours.p50() <= theirs.p50() else "NOT reached"
        lines.append(
            f"- {text} text, 1 in flight: a whole call takes **{ours.p50() * 1e3:.2f} ms** against "
            f"MLServer's {theirs.p50() * 1e3:.2f} ms (the aim is no more: {verdict})."
        )
    return "\n".join(lines)


def _all_cpu(figure: Figure) -> float:
    return figure.cpu_per_1000() + figure.load_cpu_per_1000()
