"""What the gate has found, in figures and in words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from benchmarks.chaos_calls import Done
from benchmarks.chaos_faults import Fault

__all__ = ["Aims", "Gap", "Report"]

# Longer times without an answer are told one by one.
_LONG_GAP_SECONDS = 1.0
# What a fault has done may show a while after all is whole: clients find back.
_AFTERMATH_SECONDS = 1.0


@dataclass(frozen=True)
class Aims:
    """What must hold beside the exact things.

    Attributes:
        success: The least share of calls that are answered.
        p95: The longest 95th percentile of their time, in seconds; None where it is only told.
        outage: The longest time without an answer, in seconds; None where it is only told.
        outage_of_two: The same where two parts were lost at once: where the router and the session
            manager are, calls wait for the start of one after the start of the other.
    """

    success: float = 0.999
    p95: float | None = 0.25
    outage: float | None = 2.0
    outage_of_two: float | None = 4.0


@dataclass(frozen=True)
class Gap:
    """A time without an answer.

    Attributes:
        began: When the answer before it came, by the monotonic clock, in seconds.
        ended: When the answer after it came.
    """

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.ended - self.began


@dataclass
class Report:
    """What happened.

    Attributes:
        begun: How many calls were begun.
        done: The calls that have ended.
        faults: What was broken.
        restarts: How often each service was started again.
        left: What was left at the end, in words.
    """

    begun: int = 0
    done: list[Done] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    restarts: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Done]:
        """The calls that failed."""
        return [call for call in self.done if call.reason]

    def cause(self, call: Done) -> Fault | None:
        """Return the fault in which a failed call was in flight; None where there was none."""
        if call.not_started:
            return None
        return next(
            (f for f in self.faults if f.explains(call.reason, call.began, call.ended)), None
        )

    def unexplained(self) -> list[Done]:
        """The calls that failed although they were not in flight in what was lost."""
        return [call for call in self.failed if self.cause(call) is None]

    def success(self) -> float:
        """The share of the calls that were answered."""
        return 1 - len(self.failed) / max(1, len(self.done))

    def p95(self) -> float:
        """The 95th percentile of the time of answered calls, in seconds."""
        return _p95([call for call in self.done if not call.reason])

    def undisturbed_p95(self) -> float:
        """The same of the calls that no fault has touched."""
        return _p95(
            [
                call
                for call in self.done
                if not call.reason
                and not any(
                    call.began <= f.recovered + _AFTERMATH_SECONDS and call.ended >= f.began
                    for f in self.faults
                )
            ]
        )

    def gaps(self) -> list[Gap]:
        """The times between two answers, the longest first."""
        times = sorted(call.ended for call in self.done if not call.reason)
        return sorted((Gap(*two) for two in pairwise(times)), key=lambda gap: -gap.seconds)

    def outage(self) -> float:
        """The longest time between two answers, in seconds."""
        return next((gap.seconds for gap in self.gaps()), float("inf"))

    def outage_of(self, *, two: bool) -> float:
        """The same of those in which two parts were lost at once, or of the others; 0 for none."""
        return next(
            (
                gap.seconds
                for gap in self.gaps()
                if two is any(len(f.blows) > 1 and _meets(gap, f) for f in self.faults)
            ),
            0.0,
        )

    def problems(self, aims: Aims) -> list[str]:
        """Return what is not as it should be."""
        without = Counter(f"{call.kind}: {call.reason}" for call in self.unexplained())
        found = [f"{n} calls failed without a cause: {what}" for what, n in without.items()]
        if self.begun != len(self.done) or not self.done:
            found.append(f"{self.begun} calls were begun, and {len(self.done)} have ended")
        if self.success() < aims.success:
            found.append(f"{self.success():.4%} were answered; the aim is {aims.success:.1%}")
        for what, value, most in (
            ("95th percentile", self.p95(), aims.p95),
            ("longest outage", self.outage_of(two=False), aims.outage),
            ("longest outage of two parts", self.outage_of(two=True), aims.outage_of_two),
        ):
            if most is not None and value > most:
                found.append(f"the {what} is {value:.3f} s; the aim is {most} s")
        return found + self.left

    def lines(self) -> list[str]:
        """Return all of it in words: each fault, each failed call, and a summary at the end."""
        return ["Faults:", *self._timeline(), *self._failures(), *self.summary()]

    def summary(self) -> list[str]:
        """Return the figures in words."""
        kinds = Counter(call.kind for call in self.done)
        reasons = Counter(
            f"{call.reason} in flight in: {cause.name}" if cause else f"{call.reason} WITHOUT CAUSE"
            for call in self.failed
            for cause in [self.cause(call)]
        )
        head = (
            "Kinds of faults: number; whole after (median, longest); longest time without an "
            "answer (median, longest), all in seconds:"
        )
        total = (
            f"{len(self.done)} calls ({', '.join(f'{n} {k}' for k, n in sorted(kinds.items()))}), "
            f"{len(self.failed)} failed, {self.success():.4%} answered, p95 "
            f"{self.p95() * 1000:.0f} ms ({self.undisturbed_p95() * 1000:.0f} ms away from "
            f"faults), longest outage {self.outage():.2f} s, {len(self.faults)} faults"
        )
        return [
            head,
            *self._kinds(),
            f"Times without an answer of more than {_LONG_GAP_SECONDS:g} s:",
            *(self._outages() or ["  none"]),
            "Failed calls by reason:",
            *([f"  {n} × {what}" for what, n in reasons.most_common()] or ["  none"]),
            *(
                f"{name} was started again {number} times; it was ended {self._ended(name)} times"
                for name, number in self.restarts.items()
            ),
            total,
        ]

    @property
    def _zero(self) -> float:
        return self.faults[0].began if self.faults else 0.0

    def _longest(self, fault: Fault, gaps: Sequence[Gap]) -> Gap | None:
        """Return the longest time without an answer in a fault; the longest gaps come first."""
        return next((gap for gap in gaps if _meets(gap, fault)), None)

    def _timeline(self) -> list[str]:
        gaps = self.gaps()
        found = []
        for fault in self.faults:
            gap = self._longest(fault, gaps)
            without = (
                ""
                if gap is None
                else f"; no answer for {gap.seconds:.2f} s, until {gap.ended - fault.began:.2f} s"
            )
            found.append(
                f"  {fault.began - self._zero:7.2f} s: {fault.name}: gone after "
                f"{fault.lost - fault.began:.2f} s, a process again after "
                f"{fault.up - fault.began:.2f} s, whole after "
                f"{fault.recovered - fault.began:.2f} s{without}"
            )
        return found

    def _failures(self) -> list[str]:
        found = []
        for call in self.failed:
            cause = self.cause(call)
            where = "WITHOUT CAUSE" if cause is None else f"in flight in: {cause.name}"
            found.append(
                f"  failed at {call.ended - self._zero:.2f} s after "
                f"{call.ended - call.began:.3f} s, {where}: {call.kind} of {call.session}: "
                f"{call.reason}: {call.message}"
            )
        return ["Failed calls:", *(found or ["  none"])]

    def _kinds(self) -> list[str]:
        gaps = self.gaps()
        by_name: dict[str, list[Fault]] = {}
        for fault in self.faults:
            by_name.setdefault(fault.name, []).append(fault)
        found = []
        for name, faults in sorted(by_name.items()):
            whole = [fault.recovered - fault.began for fault in faults]
            longest = [gap.seconds for f in faults if (gap := self._longest(f, gaps)) is not None]
            without = (
                f"{median(longest):6.2f} {max(longest):6.2f}" if longest else f"{'-':>6} {'-':>6}"
            )
            found.append(
                f"  {len(faults):3d}  {median(whole):6.2f} {max(whole):6.2f}  {without}  {name}"
            )
        return found

    def _outages(self) -> list[str]:
        found = []
        for gap in self.gaps():
            if gap.seconds <= _LONG_GAP_SECONDS:
                break
            faults = " / ".join(f.name for f in self.faults if _meets(gap, f)) or "NO FAULT"
            found.append(f"  {gap.seconds:.2f} s, from {gap.began - self._zero:.2f} s on: {faults}")
        return found

    def _ended(self, name: str) -> int:
        return sum(
            part == name and (way in {"kill", "crash"} or (way, part) == ("restart", "registry"))
            for fault in self.faults
            for part, way in fault.blows
        )


def _meets(gap: Gap, fault: Fault) -> bool:
    return gap.began <= fault.recovered + _AFTERMATH_SECONDS and gap.ended >= fault.began


def _p95(calls: Sequence[Done]) -> float:
    times = sorted(call.ended - call.began for call in calls)
    return times[int(len(times) * 0.95)] if times else float("inf")
