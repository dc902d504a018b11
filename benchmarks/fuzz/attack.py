"""One attacker, a process of its own: `python -m benchmarks.fuzz.attack`, a plan on stdin.

It writes what it found as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import random
import socket
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

from benchmarks.fuzz.frames import ATTACKS
from benchmarks.fuzz.rpcs import Caller, reflected

__all__ = ["Plan", "Report"]

_HALF_OPEN = 60
_BEGINNINGS = (b"", b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


@dataclass(frozen=True)
class Plan:
    """What is attacked, and how.

    Attributes:
        addresses: The services' "host:port".
        tokens: Tokens that let calls pass.
        known: Ids of what exists and may be harmed.
        templates: Requests that would pass, in base64, by the full names of their types.
        seconds: For how long at least.
        least: How often each method is called, and each attack by frames made, at least.
        frames: How many frames an attack sends.
        in_flight: How many random calls to a service run at once.
        pause: Seconds between two random calls of each, and between two attacks by frames.
        seed: Where chance starts.
        core: The core that the attacker has for itself; None where it shares all of them.
    """

    addresses: list[str]
    tokens: list[str]
    known: list[str]
    templates: dict[str, str]
    seconds: float
    least: int
    frames: int
    in_flight: int
    pause: float
    seed: int
    core: int | None


@dataclass
class Report:
    """What an attacker found.

    Attributes:
        codes: How often calls ended with which code.
        methods: How often each method was called; all that reflection tells of are in it.
        problems: What must not be, and how often it was.
        attacks: How often each attack by frames was made.
        refused: How often the server ended one before it was over.
    """

    codes: dict[str, int] = field(default_factory=dict)
    methods: dict[str, int] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    attacks: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)


async def _attack(plan: Plan) -> Report:
    templates = {name: base64.b64decode(text) for name, text in plan.templates.items()}
    callers = [
        Caller(target, plan.tokens, plan.known, templates, plan.seed + number)
        for number, target in enumerate(
            target for address in plan.addresses for target in reflected(address)
        )
    ]
    until = asyncio.get_running_loop().time() + plan.seconds
    attacks, refused = Counter[str](), Counter[str]()
    with _HalfOpen(plan.addresses):
        await asyncio.gather(
            *(caller.run(until, plan.least, plan.in_flight, plan.pause) for caller in callers),
            asyncio.to_thread(_frames, plan, callers, attacks, refused),
        )
    total = Report(attacks=dict(attacks), refused=dict(refused))
    for caller in callers:
        total.methods.update((method.full_name, 0) for method in caller.target.methods)
    for part, into in (
        ("codes", total.codes),
        ("methods", total.methods),
        ("problems", total.problems),
    ):
        for caller in callers:
            for key, count in getattr(caller.findings, part).items():
                into[key] = into.get(key, 0) + count
    return total


def _frames(
    plan: Plan, callers: list[Caller], attacks: Counter[str], refused: Counter[str]
) -> None:
    """Go through the attacks by frames, each on each service, until time is up."""
    rng = random.Random(plan.seed)
    until = time.monotonic() + plan.seconds
    attacks.update(dict.fromkeys(ATTACKS, 0))
    for turn in itertools.count():
        for name, attack in rng.sample(sorted(ATTACKS.items()), len(ATTACKS)):
            for caller in callers:
                if turn >= plan.least and time.monotonic() >= until:
                    return
                port = int(caller.target.address.rpartition(":")[2])
                method = rng.choice(caller.target.methods)
                attacks[name] += 1
                try:
                    attack(port, f"/{caller.target.name}/{method.name}", plan.frames)
                except OSError:
                    refused[name] += 1
                time.sleep(plan.pause)


class _HalfOpen:
    """Connections that begin and never go on."""

    def __init__(self, addresses: list[str]) -> None:
        self._sockets: list[socket.socket] = []
        for address in addresses:
            host, _, port = address.rpartition(":")
            for number in range(_HALF_OPEN):
                made = socket.create_connection((host, int(port)), timeout=5.0)
                made.sendall(_BEGINNINGS[number % len(_BEGINNINGS)])
                self._sockets.append(made)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_error: object) -> None:
        for made in self._sockets:
            made.close()


def main() -> int:
    plan = Plan(**json.load(sys.stdin))
    if plan.core is not None:
        os.sched_setaffinity(0, {plan.core})
    print(json.dumps(asdict(asyncio.run(_attack(plan)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
