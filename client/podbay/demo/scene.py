"""What the parts of the demo share: the client, the output, and what they have started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from podbay.demo.show import Show
from podbay.local.processes import ProcessIdentity
from podbay.schema.platform import InferenceService, InferenceSession
from podbay.schema.requests import InferenceSessionCreateRequest

if TYPE_CHECKING:
    from podbay import Client, InferenceSessionClient
    from podbay.types import SessionStatus

__all__ = ["DemoFailedError", "Running", "Scene"]

READY_SECONDS = 60.0
POLL_SECONDS = 0.1


class DemoFailedError(Exception):
    """Something did not do what the demo shows."""


@dataclass(frozen=True)
class Running:
    """A session that takes calls.

    Attributes:
        session: The session.
        calls: The client of its calls.
    """

    session: InferenceSession
    calls: InferenceSessionClient


@dataclass
class Scene:
    """The stage of the demo.

    Attributes:
        client: The client.
        show: The output.
        account: The account that owns everything.
        running: The sessions that were started.
        replicas: Every process of a replica that was seen, to verify at the end that it is gone.
    """

    client: Client
    show: Show
    account: str
    running: list[Running] = field(default_factory=list)
    replicas: set[ProcessIdentity] = field(default_factory=set)

    def start(self, service: InferenceService, replicas: int) -> Running:
        """Start a session, show its way to readiness, and return it when it takes calls."""
        sessions = self.client.inferencesessions
        made = sessions.create(
            InferenceSessionCreateRequest(
                account=self.account, inferenceService=service.id, replicas=replicas
            )
        )
        session = made.inferencesession
        self.show.line(f"session {session.id}")
        calls = sessions.client(
            session.id, made.token, interface=session.inferenceService.interface
        )
        running = Running(session, calls)
        self.running.append(running)
        self.wait_for(running, replicas)
        return running

    def wait_for(self, running: Running, replicas: int) -> SessionStatus:
        """Wait until so many replicas of a session are ready.

        Raises:
            DemoFailedError: They were not in time.
        """
        session_id = running.session.id
        with self.show.status("waits until it is ready") as shown:

            def progress(status: SessionStatus) -> None:
                shown.update(f"{status.ready_replicas} of {status.desired_replicas} replicas ready")

            self.client.inferencesessions.wait_ready(
                session_id, timeout=READY_SECONDS, progress=progress
            )
            deadline = time.monotonic() + READY_SECONDS
            while time.monotonic() < deadline:
                status = self.client.inferencesessions.status(session_id)
                progress(status)
                self.remember(status)
                if status.ready_replicas >= replicas:
                    return status
                time.sleep(POLL_SECONDS)
        raise DemoFailedError(
            f"session {session_id} had {status.ready_replicas} of {replicas} replicas ready after "
            f"{READY_SECONDS:.0f} s: {status.explanation}"
        )

    def remember(self, status: SessionStatus) -> None:
        """Note the processes of a session's replicas."""
        for replica in status.replicas:
            identity = ProcessIdentity.of(replica.process_id) if replica.process_id else None
            if identity is not None and identity.is_running():
                self.replicas.add(identity)

    def left(self) -> Sequence[int]:
        """Return the ids of the replicas' processes that still run."""
        return sorted(identity.pid for identity in self.replicas if identity.is_running())
