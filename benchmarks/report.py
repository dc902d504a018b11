"""The page that a run writes."""

from __future__ import annotations

from benchmarks.aims import Findings, aims_table, breakdown, telemetry_table
from benchmarks.figures import Figure, table

__all__ = ["page"]

_PAGE = """# Performance

Written by `make bench` on {date}: Python {python}, {cores} cores that the client, the router, the
replica and Envoy {envoy} share; medians of {rounds} rounds of {requests} requests, all cases in
turn in one run. The machine's load average was {load} before it: the more of it is other work, the
less latencies and even ratios say. Figures of another machine differ; the ratios are what to
compare. To run it again: `make bench` (it needs h2load: Debian's nghttp2-client; Envoy comes from
PyPI).

Every case calls the same echo replica (`benchmarks/echo_replica.py`) with the same body. *direct*
goes straight to it, *envoy* through Envoy as a plain proxy from HTTP/2 to HTTP/1.1 with one worker
thread, *podbay* through one router worker. h2load is written in C; Podbay's loads are Python, and
what their clients cost is part of their figures. The CPU column is what the proxy alone used, so it
compares the proxies whatever stands in front of them.

{main}

{summary}
{hop}

## What the router shall reach

For these the router is alone on one core, as is Envoy in its turn; the load and the replica are on
another (`benchmarks/pinned.py`). The loads are no limit there: h2load, and for `Exchange` one that
sends calls which it has encoded beforehand. Ratios are of CPU time a request, which other work on
the machine changes least.

{aims}

{pinned}

## Where the microseconds of a call go

`Exchange`, one worker on one core. The router's own parts are timed alone, without sockets
(`python -m benchmarks.inside`); the rest is what its process uses beyond them.

{breakdown}

- **The kernel** is the largest part: about four tenths of what `perf` sees, most of it in the one
  `write` that sends a request to the replica and, on loopback, also delivers it there. Envoy does
  the same. The router makes one `write` and one `read` a call, and neither can be left out.
- **gRPC** costs that much a *message*, a read and a write with the wake-ups between its threads and
  the event loop, whatever the message carries: with one call in flight that is most of the call. So
  results that come one after the other share one: the writer gives the event loop up to three turns
  while more come; alone, a call does not wait. More turns, up to sixteen, put hardly more into one,
  as the client has its answers in two halves by then and sends the next calls in two as well. Other
  pollers of gRPC (its experiments with and without its event engine) cost the same. That is what is
  between 32 in flight and the aim: were all 32 in one message, it would just be missed.
- **The router's Python** is flat: no line takes more than 0.7 µs of it. Replicas send few different
  heads, so an answer that comes at once, with a head that the parser has seen before, goes past the
  parser and the steps of an answer in pieces: that took it from 12.5 to 9.7 µs a call. The timer of
  a call's deadline is 0.7 µs; buckets of deadlines with one timer for all were tried, and cost as
  much. Fewer accesses to the messages of results gained 0.1 µs. Neither was kept.
- **unary Infer**: grpc.aio is the limit, with no router behind it (the last line of the table
  above; half to two thirds of such a call). Where that line alone is below the aim, nothing that
  serves with grpc.aio reaches it. A unary call is several operations on its completion queue,
  each with a switch between threads; reading the metadata adds 20 to 30 µs, the hop as much, the
  interceptor and the channel options 10 each. Of what py-spy sees of the event loop's thread, the
  Python of the router and its interceptor is an eighth, a third of that the write to the replica.
  Clients that care use `Exchange`.

## What metrics and traces cost

The router's own parts of a call, as above, in turn in one run (`python -m benchmarks.telemetry`).
Spans are made by OpenTelemetry's SDK and not exported. Without `--metrics-listen` and without a
tracer provider neither costs anything.

{telemetry}

## How to read it
- **podbay sync infer, 1 in flight** against **direct (http.client)** is what a person with a
  notebook sees: the same Python, the same loop, with Podbay in between.
- **Exchange** carries all calls over one stream and puts what is queued into one message; the
  Python client uses it for every call. **unary Infer** is a plain gRPC call, as from grpcurl and
  other languages.
- **pieces** are answers of 50 server-sent events; their rate is in pieces.

- The ratio of `Exchange` in the first table is lower than the one on cores of their own, as the
  Python client and the replica take their time from the same two cores there.

The adapters have [a page of their own](performance-adapters.md), and so have
[the local platform](performance-local.md), [the planner](performance-placement.md),
[idle services](performance-idle.md) and the comparison with
[other model servers](performance-peers.md).
"""


def page(
    figures: list[Figure],
    hop: tuple[float, float],
    found: Findings,
    machine: dict[str, str],
) -> str:
    """Return the page of a run.

    Args:
        figures: The cases.
        hop: Requests per second of the router's own HTTP client, and of aiohttp's.
        found: What the other parts of the run found.
        machine: What the run was made on.
    """
    by_case = {(figure.case, figure.in_flight): figure for figure in figures}
    rows = [
        _row(figure, by_case["direct (h2load)", in_flight])
        for in_flight in (1, 32)
        for figure in figures
        if figure.in_flight == in_flight
    ]
    headers = [
        "case",
        "in flight",
        "p50 ms",
        "p99 ms",
        "requests/s",
        "of direct (h2load)",
        "pieces/s",
        "proxy CPU s per 1,000",
    ]
    return _PAGE.format(
        main=table(headers, rows),
        summary=_summary(by_case),
        hop=_hop(*hop),
        aims=aims_table(found),
        pinned=_pinned(found),
        breakdown=breakdown(found),
        telemetry=telemetry_table(found),
        **machine,
    )


def _row(figure: Figure, reference: Figure) -> list[str]:
    pieces = "pieces" in figure.case
    proxied = not figure.case.startswith("direct")
    return [
        figure.case,
        str(figure.in_flight),
        f"{figure.p50() * 1e3:.3f}",
        f"{figure.p99() * 1e3:.3f}",
        f"{figure.rate():,.0f}",
        "" if pieces else f"{figure.rate() / reference.rate():.2f}",
        f"{figure.items_rate():,.0f}" if pieces else "",
        f"{figure.cpu_per_1000():.3f}" if proxied else "",
    ]


def _summary(by_case: dict[tuple[str, int], Figure]) -> str:
    added = by_case["podbay sync infer", 1].p50() - by_case["direct (http.client)", 1].p50()
    exchange, unary = by_case["podbay Exchange", 32], by_case["podbay unary Infer", 32]
    proxy = by_case["envoy h2→h1 (h2load)", 32]
    verdict = "within" if added <= 1e-3 else "OVER"
    whole_call = (
        f"A whole call, 1 in flight, adds **{added * 1e3:.2f} ms** to the direct call ({verdict} "
        "the limit of 1 ms)."
    )
    over_stream = (
        "Exchange at 32 in flight, Python client included: "
        f"**{exchange.rate() / proxy.rate():.2f}×** Envoy's requests per second, "
        f"**{exchange.cpu_per_1000() / proxy.cpu_per_1000():.2f}×** its CPU a request."
    )
    plain = f"Unary Infer at 32 in flight: **{unary.rate() / proxy.rate():.2f}×** Envoy's."
    return "\n".join(f"- {line}" for line in (whole_call, over_stream, plain))


def _hop(own: float, aiohttp: float) -> str:
    return (
        f"- The hop alone, 32 in flight: the router's own HTTP client **{own:,.0f}** requests/s, "
        f"aiohttp's {aiohttp:,.0f}: **{own / aiohttp:.1f}×** "
        "([why there is one](decisions/0007-own-http-client-for-the-hop.md))."
    )


def _pinned(found: Findings) -> str:
    rows = [
        [name, f"{case.rate:,.0f}", f"{case.cpu * 1e6:.1f}", f"{case.batch:.1f}"]
        for name, case in found.pinned.items()
    ]
    headers = [
        "proxy alone on one core",
        "requests/s",
        "proxy CPU µs a request",
        "results a message",
    ]
    return table(headers, rows)
