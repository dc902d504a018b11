"""Measure the planner on simulated fleets, and write docs/performance-placement.md.

A fleet is nodes with 8 GPUs of one of three types, and sessions of mixed needs with 10 replicas for
each node. What is measured is one pass of the planner, as the session manager makes it: on its
timer while nothing happens, and when much happens at once.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import table
from podbay_session_manager.declared_nodes import DeclaredGpu
from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.plan import plan_pass
from podbay_session_manager.plan_input import NodeRecord, Plan, ProbeState, World
from podbay_session_manager.policy import Policy
from podbay_session_manager.records import (
    Needs,
    ReplicaRecord,
    ServiceSpec,
    Serving,
    SessionRecord,
)

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
TYPES = (("nvidia.com/gpu-t4", 16), ("nvidia.com/gpu-a100", 80), ("nvidia.com/gpu-h100", 80))
NOW = 1_000_000.0
POLICY = Policy()

_PAGE = """# Performance of the planner

Written by `python -m benchmarks.placement` on {date}: Python {python}, {cores} cores, one of them
used; medians of {rounds} rounds, in seconds of a processor for one pass. The fleets are simulated:
nodes with 8 GPUs of one of three types, 10 replicas for each node in sessions of 1 to 20, and 8 to
12 kinds of needs: from none in particular to 8 GPUs, some of several types, some without spot
nodes. Figures of another machine differ; how they grow does not.

{main}

1,000 nodes with 10,000 replicas take {steady:.2f} s a pass while nothing happens, {all:.2f} s when
all of them are placed at once, and {waiting:.2f} s when about a quarter of them waits. From
{smallest:,} to {largest:,} nodes, times {factor}, a pass takes {steady_growth:.1f},
{all_growth:.1f} and {waiting_growth:.1f} times as long.

## How to read it
- **nothing happens**: every replica is ready and its node's list shows it. The session manager
  makes such a pass once a second, and whenever something may have changed.
- **all are placed**: an empty fleet is given all replicas in one pass. Replicas that need the same
  share one look at all nodes, and each placement changes one node.
- **a part waits**: the fleet is full, and about a quarter of the replicas waits. Who waits is told
  why, node by node, and those who wait longest have room kept for them.
- What comes on top is the store, for what changes, and the drivers' answers.
"""


class Fleet(NamedTuple):
    """A simulated fleet at one moment."""

    world: World
    waiting: int


class Row(NamedTuple):
    """The figures of one size: seconds of a pass."""

    nodes: int
    replicas: int
    steady: float
    placing: float
    waiting: float


def light_needs(chance: random.Random) -> Needs:
    """Needs of which 10 replicas find room on each node."""
    kinds = tuple(name for name, _ in TYPES)
    return chance.choice(
        [
            Needs(),
            Needs(cpus=1, memory_bytes=2 * GIB),
            Needs(cpus=2, memory_bytes=8 * GIB),
            Needs(cpus=1, memory_bytes=2 * GIB, spot=False),
            Needs(1, kinds, cpus=1, memory_bytes=4 * GIB),
            Needs(1, kinds[:2], cpus=1, memory_bytes=4 * GIB),
            Needs(1, kinds[1:], 40 * GIB, cpus=1, memory_bytes=4 * GIB),
            Needs(2, kinds[1:], cpus=2, memory_bytes=8 * GIB),
        ]
    )


def mixed_needs(chance: random.Random) -> Needs:
    """Needs of which a part must wait."""
    kinds = [name for name, _ in TYPES]
    return chance.choice(
        [
            Needs(cpus=1, memory_bytes=2 * GIB),
            Needs(cpus=2, memory_bytes=8 * GIB),
            Needs(),
            Needs(cpus=1, memory_bytes=2 * GIB, spot=False),
            *(Needs(1, (kind,), cpus=1) for kind in kinds),
            Needs(1, (kinds[1], kinds[2]), 40 * GIB, 1, 4 * GIB),
            Needs(1, tuple(kinds), 0, 1, 4 * GIB),
            Needs(2, (kinds[1],), 0, 2, 8 * GIB),
            Needs(4, (kinds[2],), 0, 4, 16 * GIB, spot=False),
            Needs(8, (kinds[1], kinds[2]), 0, 8, 32 * GIB),
        ]
    )


def make_nodes(count: int) -> tuple[NodeRecord, ...]:
    return tuple(
        NodeRecord(
            name=f"n{number:05}",
            driver=f"docker/n{number:05}",
            kind="docker",
            cpus=64.0,
            memory_bytes=512 * GIB,
            spot=number % 5 == 0,
            gpus=tuple(
                DeclaredGpu(str(gpu), TYPES[number % 3][0], TYPES[number % 3][1] * GIB)
                for gpu in range(8)
            ),
        )
        for number in range(count)
    )


def make_sessions(
    replicas: int, needs_of: Callable[[random.Random], Needs]
) -> dict[str, SessionRecord]:
    chance = random.Random(7)
    sessions: dict[str, SessionRecord] = {}
    left = replicas
    while left:
        key = f"s{len(sessions):06}"
        desired = min(left, chance.randint(1, 20))
        left -= desired
        sessions[key] = SessionRecord(
            id=key,
            account="a",
            service=ServiceSpec(kind="container", name="n", image="i"),
            serving=Serving(),
            driver="docker",
            desired=desired,
            created_at=NOW + len(sessions),
            needs=needs_of(chance),
        )
    return sessions


def empty_world(nodes: int, replicas: int, needs_of: Callable[[random.Random], Needs]) -> World:
    records = make_nodes(nodes)
    return World(
        sessions=make_sessions(replicas, needs_of),
        replicas={},
        observed={node.driver: {} for node in records},
        nodes=records,
    )


def plan(world: World) -> Plan:
    ids = itertools.count()
    return plan_pass(world, NOW + 1e6, POLICY, new_id=lambda: f"r{next(ids):06}")


def after(world: World, made: Plan) -> Fleet:
    """Return the fleet once all that was placed is ready."""
    replicas: dict[str, dict[str, ReplicaRecord]] = {key: {} for key in world.sessions}
    observed: dict[str, dict[str, ObservedReplica]] = {node.driver: {} for node in world.nodes}
    probes: dict[str, ProbeState] = {}
    waiting = 0
    for port, replica in enumerate(made.replicas.values(), 10_000):
        if replica.phase is ReplicaPhase.PENDING:
            waiting += 1
            replicas[replica.session_id][replica.id] = replica
            continue
        ready = replace(
            replica,
            phase=ReplicaPhase.READY,
            deadline=None,
            ready_at=NOW,
            host="10.0.0.1",
            port=port,
            pid=port,
        )
        replicas[ready.session_id][ready.id] = ready
        observed[ready.driver][ready.id] = ObservedReplica(
            ready.id, ready.session_id, True, host="10.0.0.1", port=port, pid=port, node=ready.node
        )
        probes[ready.id] = ProbeState(answered=True)
    sessions = {
        key: replace(made.sessions.get(key, session), ever_ready=True)
        for key, session in world.sessions.items()
    }
    return Fleet(
        replace(world, sessions=sessions, replicas=replicas, observed=observed, probes=probes),
        waiting,
    )


def seconds(world: World, rounds: int) -> float:
    """Return the median of the seconds of a processor that a pass takes."""
    times = []
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        plan(world)
        times.append(time.process_time() - began)
    return statistics.median(times)


def measure(nodes: int, rounds: int) -> Row:
    replicas = 10 * nodes
    empty = empty_world(nodes, replicas, light_needs)
    settled = after(empty, plan(empty))
    if settled.waiting:
        raise AssertionError(f"{settled.waiting} replicas wait where there is room for all")
    if plan(settled.world).decides:
        raise AssertionError("something is decided where nothing happens")
    mixed = empty_world(nodes, replicas, mixed_needs)
    crowded = after(mixed, plan(mixed))
    share = crowded.waiting / replicas
    if not 0.1 < share < 0.35:
        raise AssertionError(f"{share:.0%} of the replicas wait; a quarter or so was meant to")
    row = Row(
        nodes,
        replicas,
        seconds(settled.world, rounds),
        seconds(empty, rounds),
        seconds(crowded.world, rounds),
    )
    print(
        f"{nodes:>6} nodes {replicas:>7} replicas: {row.steady:.3f} s, {row.placing:.3f} s, "
        f"{row.waiting:.3f} s ({share:.0%} wait)",
        flush=True,
    )
    return row


def page(rows: list[Row], rounds: int) -> str:
    first, last = rows[0], rows[-1]
    thousand = next((row for row in rows if row.nodes == 1000), last)
    headers = ["nodes", "replicas", "nothing happens, ms", "all are placed, ms", "a part waits, ms"]
    lines = [
        [
            f"{row.nodes:,}",
            f"{row.replicas:,}",
            *(f"{1000 * value:,.0f}" for value in (row.steady, row.placing, row.waiting)),
        ]
        for row in rows
    ]
    return _PAGE.format(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        python=platform.python_version(),
        cores=os.cpu_count(),
        rounds=rounds,
        main=table(headers, lines),
        steady=thousand.steady,
        all=thousand.placing,
        waiting=thousand.waiting,
        smallest=first.nodes,
        largest=last.nodes,
        factor=last.nodes // first.nodes,
        steady_growth=last.steady / first.steady,
        all_growth=last.placing / first.placing,
        waiting_growth=last.waiting / first.waiting,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument(
        "--nodes",
        type=int,
        nargs="+",
        default=[250, 500, 1000, 2000],
        help="the sizes of the fleets (default: %(default)s)",
    )
    output = ROOT / "docs" / "performance-placement.md"
    parser.add_argument("--output", type=Path, default=output, help="the page to write")
    arguments = parser.parse_args()
    rows = [measure(nodes, arguments.rounds) for nodes in arguments.nodes]
    arguments.output.write_text(page(rows, arguments.rounds), encoding="utf-8")
    print(f"\nwritten: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
