"""One step of one replica: from what is stored and what is seen to its next phase. Pure."""

from __future__ import annotations

from dataclasses import replace

from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.plan_input import (
    NodeRecord,
    Plan,
    ProbeState,
    RemoveReplica,
    Scene,
    StartReplica,
    StopReplica,
)
from podbay_session_manager.records import Reason, ReplicaRecord, SessionRecord
from podbay_session_manager.texts import (
    exit_reason,
    gpu_failed_message,
    gpus_lost_message,
    never_ready_message,
    node_lost_message,
    probe_failed_message,
)

__all__ = ["retire_failing", "retire_replica", "step_replica"]

_P = ReplicaPhase
_NO_PROBE = ProbeState()
_FAILED_PROBES = 3


def step_replica(
    replica: ReplicaRecord, session: SessionRecord, scene: Scene, plan: Plan, *, wanted: bool
) -> ReplicaRecord:
    """Return the replica after what is seen and what is wanted; add actions to the plan.

    Args:
        replica: As it is stored.
        session: Its session.
        scene: What is seen, when, and how patient to be.
        plan: Where the actions go.
        wanted: Whether it shall run; False where it shall end.
    """
    if replica.phase is _P.PENDING:
        return replica if wanted else _never_started(replica, scene.now)
    listed = scene.world.observed.get(replica.driver)
    known = listed is not None
    seen = listed.get(replica.id) if listed is not None else None
    stepper = _Stepper(session, scene, plan)
    if replica.phase.ended:
        return stepper.clear(replica, seen, known=known)
    if not known and wanted:
        # Unknown is not gone: it stays as it is until its driver can be asked again, or until
        # that takes too long.
        node = scene.lost.get(replica.driver)
        return replica if node is None else stepper.lose(replica, node)
    if not wanted:
        replica = stepper.retire(replica)
    if known:
        if replica.gpus and wanted:
            replica = stepper.leave_failed_gpus(replica)
            if seen is not None and seen.lost_gpus:
                replica = stepper.leave_lost_gpus(replica, seen.lost_gpus)
        replica = stepper.observe(replica, seen)
    plan.wake(replica.deadline)
    return replica


def retire_replica(
    replica: ReplicaRecord, session: SessionRecord, scene: Scene, plan: Plan
) -> ReplicaRecord:
    """Return a replica that shall end, one step nearer to its end."""
    retired = _Stepper(session, scene, plan).retire(replica)
    plan.wake(retired.deadline)
    return retired


def retire_failing(
    replica: ReplicaRecord, session: SessionRecord, scene: Scene, plan: Plan, message: str
) -> ReplicaRecord:
    """Return a ready replica whose calls fail as one that another shall take the place of.

    Args:
        replica: As it is stored.
        session: Its session.
        scene: What is seen, when, and how patient to be.
        plan: Where the time of the next look goes.
        message: How its calls fail.
    """
    retired = _Stepper(session, scene, plan).retire_for(replica, Reason.REPLICA_FAILING, message)
    plan.wake(retired.deadline)
    return retired


def _never_started(replica: ReplicaRecord, now: float) -> ReplicaRecord:
    stopped = replica.moved(_P.STOPPED, now, reason=Reason.REPLICA_STOPPED, message="")
    return replace(stopped, removed=True)


class _Stepper:
    """The steps of one replica with what they all look at."""

    __slots__ = ("_now", "_plan", "_policy", "_scene", "_session", "_world")

    def __init__(self, session: SessionRecord, scene: Scene, plan: Plan) -> None:
        self._session = session
        self._scene = scene
        self._world = scene.world
        self._now = scene.now
        self._policy = scene.policy
        self._plan = plan

    def retire(self, replica: ReplicaRecord) -> ReplicaRecord:
        """Take a replica that shall end one step towards its end."""
        now = self._now
        if replica.phase in {_P.READY, _P.UNREADY}:
            return replica.moved(
                _P.DRAINING,
                now,
                deadline=now + self._policy.drain,
                reason=Reason.REPLICA_STOPPED,
                message="",
            )
        if replica.phase in {_P.STARTING, _P.PROBING}:
            return self._stopping(replica, Reason.REPLICA_STOPPED, "")
        return replica

    def lose(self, replica: ReplicaRecord, node: NodeRecord) -> ReplicaRecord:
        """Give up a replica whose node is lost; its place there stays taken until it is seen."""
        if replica.phase is _P.STOPPING:
            return self._final(replica)
        # What was about to end as it should has no other way to.
        phase = _P.STOPPED if replica.phase is _P.DRAINING else _P.FAILED
        message = node_lost_message(node.name, node.unreachable, self._policy.node_grace)
        return replica.moved(phase, self._now, reason=Reason.NODE_LOST, message=message)

    def retire_for(self, replica: ReplicaRecord, reason: Reason, message: str) -> ReplicaRecord:
        """Let one that takes calls finish them and end, because something is wrong with it."""
        return replica.moved(
            _P.DRAINING,
            self._now,
            deadline=self._now + self._policy.drain,
            reason=reason,
            message=message,
            log_tail=self._tail(replica),
        )

    def leave_failed_gpus(self, replica: ReplicaRecord) -> ReplicaRecord:
        """Let a replica end that has a GPU with which something is wrong."""
        failed = self._scene.set_aside.get(replica.driver, {})
        for gpu in replica.gpus:
            if gpu not in failed:
                continue
            return self._without_gpus(replica, gpu_failed_message(replica.node, gpu, failed[gpu]))
        return replica

    def leave_lost_gpus(self, replica: ReplicaRecord, why: str) -> ReplicaRecord:
        """Let a replica end whose GPUs have vanished in it, although they may be well."""
        return self._without_gpus(replica, gpus_lost_message(replica, why))

    def _without_gpus(self, replica: ReplicaRecord, message: str) -> ReplicaRecord:
        if replica.phase in {_P.READY, _P.UNREADY}:
            return self.retire_for(replica, Reason.GPU_FAILED, message)
        if replica.phase in {_P.STARTING, _P.PROBING}:
            return self._stopping(replica, Reason.GPU_FAILED, message)
        return replica

    def observe(self, replica: ReplicaRecord, seen: ObservedReplica | None) -> ReplicaRecord:
        """Take a replica through what its driver says of it."""
        if seen is None:
            if replica.phase is _P.STOPPING and self._on_its_way(replica):
                return self._give_up(replica)
            if replica.id in self._world.starting:
                return replica
            return self._absent(replica)
        if not seen.running:
            return self._clear_later(self._ended(self._located(replica, seen), seen))
        replica = self._located(replica, seen)
        match replica.phase:
            case _P.STARTING:
                started = replica.moved(
                    _P.PROBING, self._now, deadline=self._now + self._session.serving.start_timeout
                )
                return self._probing(started)
            case _P.PROBING:
                return self._probing(replica)
            case _P.READY | _P.UNREADY:
                return self._serving(replica)
            case _P.DRAINING:
                return self._draining(replica)
            case _:
                return self._stop(replica)

    def clear(
        self, replica: ReplicaRecord, seen: ObservedReplica | None, *, known: bool
    ) -> ReplicaRecord:
        """See to it that nothing is left of a replica that has ended."""
        if not known:
            return replica
        if seen is None:
            if self._on_its_way(replica):
                return self._give_up(replica)
            return replica if replica.removed else replace(replica, removed=True)
        if replica.id in self._world.starting:
            return replica
        if seen.running:
            # A start that was on its way when the replica was given up.
            self._plan.actions.append(StopReplica(replica.id, replica.driver, 0.0))
        else:
            self._plan.actions.append(RemoveReplica(replica.id, replica.driver))
        return replica

    def _on_its_way(self, replica: ReplicaRecord) -> bool:
        return replica.id in self._world.starting or replica.id in self._world.underway

    def _give_up(self, replica: ReplicaRecord) -> ReplicaRecord:
        """Let a start end that nobody wants any more: an image may take an hour to be pulled."""
        self._plan.actions.append(StopReplica(replica.id, replica.driver, 0.0))
        return replica

    def _clear_later(self, replica: ReplicaRecord) -> ReplicaRecord:
        self._plan.actions.append(RemoveReplica(replica.id, replica.driver))
        return replica

    def _located(self, replica: ReplicaRecord, seen: ObservedReplica) -> ReplicaRecord:
        """Take over where it runs."""
        node = seen.node or replica.node
        found = (seen.host or replica.host, seen.port or replica.port, seen.pid or replica.pid)
        if found == (replica.host, replica.port, replica.pid) and node == replica.node:
            return replica
        return replace(replica, host=found[0], port=found[1], pid=found[2], node=node)

    def _absent(self, replica: ReplicaRecord) -> ReplicaRecord:
        """Decide about a replica that its driver does not hold."""
        now = self._now
        match replica.phase:
            case _P.STARTING:
                if replica.deadline is not None and now >= replica.deadline:
                    return replica.moved(
                        _P.FAILED,
                        now,
                        reason=Reason.START_FAILED,
                        message=f"The driver {replica.driver!r} did not start the replica within "
                        f"{self._policy.start_limit:g} s.",
                    )
                self._plan.actions.append(
                    StartReplica(replica.id, replica.session_id, replica.driver)
                )
                return replica
            case _P.STOPPING:
                return replace(self._final(replica), removed=True)
            case _P.DRAINING:
                return replace(replica.moved(_P.STOPPED, now), removed=True)
            case _:
                reason, message = exit_reason(None)
                lost = replica.moved(
                    _P.FAILED, now, reason=reason, message=message, log_tail=self._tail(replica)
                )
                return replace(lost, removed=True)

    def _ended(self, replica: ReplicaRecord, seen: ObservedReplica) -> ReplicaRecord:
        """Decide about a replica that has ended."""
        replica = replace(replica, exit_code=seen.exit_code)
        if replica.phase is _P.STOPPING:
            return self._final(replica)
        if replica.phase is _P.DRAINING:
            return replica.moved(_P.STOPPED, self._now)
        reason, message = exit_reason(seen.exit_code)
        if seen.reason is not Reason.NONE:
            reason, message = seen.reason, seen.message
        return replica.moved(
            _P.FAILED, self._now, reason=reason, message=message, log_tail=self._tail(replica)
        )

    def _final(self, replica: ReplicaRecord) -> ReplicaRecord:
        """End a replica that was stopped: as it should, or as the failure it was stopped for."""
        stopped = replica.reason in {Reason.NONE, Reason.REPLICA_STOPPED}
        return replica.moved(_P.STOPPED if stopped else _P.FAILED, self._now)

    def _probing(self, replica: ReplicaRecord) -> ReplicaRecord:
        probe = self._probe(replica)
        if probe.answered:
            return replica.moved(_P.READY, self._now, reason=Reason.NONE, message="")
        if self._late(replica):
            serving = self._session.serving
            unopened = probe.refused and not probe.listened
            return self._stop(
                self._stopping(
                    replica,
                    Reason.PORT_NOT_OPENED if unopened else Reason.NEVER_READY,
                    never_ready_message(
                        replica, serving.start_timeout, serving.readiness_path, probe.seen
                    ),
                )
            )
        return replica

    def _serving(self, replica: ReplicaRecord) -> ReplicaRecord:
        probe = self._probe(replica)
        path = self._session.serving.readiness_path
        if replica.phase is _P.READY:
            refuses = probe.failures >= _FAILED_PROBES
            if not refuses and probe.silences < self._policy.silent_probes:
                return replica
            limit = self._policy.unready_limit if refuses else self._policy.silent_limit
            return replica.moved(
                _P.UNREADY,
                self._now,
                deadline=self._now + limit,
                reason=Reason.PROBE_FAILED,
                message=probe_failed_message(path, probe.seen),
            )
        if probe.answered:
            return replica.moved(_P.READY, self._now, reason=Reason.NONE, message="")
        if self._late(replica):
            message = probe_failed_message(path, probe.seen, final=True)
            return self._stop(self._stopping(replica, Reason.PROBE_FAILED, message))
        return replica

    def _draining(self, replica: ReplicaRecord) -> ReplicaRecord:
        if replica.id in self._world.drained or self._late(replica):
            return self._stop(
                replica.moved(
                    _P.STOPPING, self._now, deadline=self._now + self._session.serving.stop_grace
                )
            )
        return replica

    def _stopping(self, replica: ReplicaRecord, reason: Reason, message: str) -> ReplicaRecord:
        return replica.moved(
            _P.STOPPING,
            self._now,
            deadline=self._now + self._session.serving.stop_grace,
            reason=reason,
            message=message,
            log_tail=() if reason is Reason.REPLICA_STOPPED else self._tail(replica),
        )

    def _stop(self, replica: ReplicaRecord) -> ReplicaRecord:
        """Tell the driver to stop it; told again in every pass, which drivers expect."""
        left = max(0.0, (replica.deadline or self._now) - self._now)
        self._plan.actions.append(StopReplica(replica.id, replica.driver, left))
        return replica

    def _probe(self, replica: ReplicaRecord) -> ProbeState:
        return self._world.probes.get(replica.id, _NO_PROBE)

    def _tail(self, replica: ReplicaRecord) -> tuple[str, ...]:
        return self._world.tails.get(replica.id, replica.log_tail)

    def _late(self, replica: ReplicaRecord) -> bool:
        return replica.deadline is not None and self._now >= replica.deadline
