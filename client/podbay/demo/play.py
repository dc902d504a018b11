"""The demo from start to end: `podbay demo`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from podbay import Client
from podbay.demo.classification import classify
from podbay.demo.completions import complete, stream
from podbay.demo.replacement import kill_one
from podbay.demo.scene import DemoFailedError, Scene
from podbay.demo.show import Show
from podbay.errors import PodbayError
from podbay.local.background import BackgroundInstallation
from podbay.local.faults import LocalError
from podbay.local.plan import UpSettings
from podbay.local.supervisor import Event

__all__ = ["play"]

_SETTINGS = UpSettings(
    registry_port=0, session_manager_port=0, inference_router_port=0, drain_seconds=5.0
)


def play(show: Show) -> int:
    """Run the demo, and leave nothing behind.

    Returns:
        The exit code: 0 where everything did what it shows.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="podbay-demo-") as folder:
        failed = _on_a_stage(show, Path(folder))
    took = time.monotonic() - begun
    show.heading(f"{'The demo FAILED' if failed else 'All of it worked'}, in {took:.0f} s")
    return 1 if failed else 0


def _on_a_stage(show: Show, folder: Path) -> bool:
    """Start everything, play, stop everything; return whether something failed."""
    show.heading("Starts a registry, a session manager and an inference router")
    stage = BackgroundInstallation(folder, _SETTINGS, on_event=_shower(show))
    scene: Scene | None = None
    failed = False
    try:
        installation = stage.start()
        token = installation.data.admin_token_file.read_text().strip()
        with Client(installation.endpoint, token) as client:
            scene = Scene(client, show, client.installation().account)
            _play_parts(scene)
    except (DemoFailedError, PodbayError, LocalError) as error:
        show.bad(str(error))
        if isinstance(error, LocalError):
            for line in (*error.evidence, error.way_out):
                show.line(f"| {line}")
        failed = True
    finally:
        show.heading("5. Everything is terminated")
        left = stage.stop()
        if left:
            show.bad(f"processes had to be killed: {[*left.killed, *left.remaining]}")
        alive = scene.left() if scene else ()
        if alive:
            show.bad(f"processes of replicas are left: {[*alive]}")
    if not left and not alive:
        seen = len(scene.replicas) if scene else 0
        show.good(f"no process is left: three services and {seen} replicas have ended")
    return failed or bool(left) or bool(alive)


def _play_parts(scene: Scene) -> None:
    try:
        completions = complete(scene)
        stream(scene)
        classify(scene)
        kill_one(scene, completions)
        scene.show.heading("The sessions are terminated")
        for running in scene.running:
            status = scene.client.inferencesessions.terminate(running.session.id)
            scene.show.line(f"session {running.session.id}: {status.status}")
    finally:
        for running in scene.running:
            running.calls.close()


def _shower(show: Show) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        style = {"died": "red", "killed": "red", "warning": "yellow"}.get(event.kind, "")
        show.line(f"{event.service:<17} {event.text}", style=style)
        for line in event.lines:
            show.line(f"{'':<17} | {line}")

    return on_event
