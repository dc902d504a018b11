"""The first two parts of the demo: mocks that complete text, at once and piece by piece."""

from __future__ import annotations

import json
from typing import Any

from podbay.demo.scene import DemoFailedError, Running, Scene

__all__ = ["complete", "stream"]

PROMPT = {"text": "Open the pod bay doors, Hal!"}


def complete(scene: Scene) -> Running:
    """Complete a text with the mock of the guide, on two replicas.

    Returns:
        The session, for a later part.

    Raises:
        DemoFailedError: The answer does not hold two completions.
    """
    scene.show.heading("1. Text completion: a mock service, a session with two replicas")
    service = scene.client.inferenceservices.create_mock(
        "podbay.local.mocks.TextCompletion", account=scene.account
    )
    scene.show.line(f"service {service.id}  {service.name}")
    running = scene.start(service, replicas=2)
    scene.show.line(f"> {PROMPT['text']}")
    completions = running.calls.infer(PROMPT)
    for completion in completions:
        scene.show.line(f"< {_text(completion)}")
    if not completions:
        raise DemoFailedError("the answer holds no completion")
    scene.show.good(f"{len(completions)} completions")
    return running


def stream(scene: Scene) -> None:
    """Stream one answer.

    Raises:
        DemoFailedError: The answer did not come in pieces.
    """
    scene.show.heading("2. Streaming: one answer, piece by piece")
    service = scene.client.inferenceservices.create_mock(
        "podbay.local.mocks.StreamingTextCompletion", account=scene.account
    )
    running = scene.start(service, replicas=1)
    scene.show.line(f"> {PROMPT['text']}")
    pieces = 0
    scene.show.piece("  < ")
    for item in running.calls.stream(PROMPT):
        pieces += 1
        scene.show.piece(_text(item))
    scene.show.piece("\n")
    if pieces < 2:
        raise DemoFailedError(f"the answer came in {pieces} pieces")
    scene.show.good(f"{pieces} pieces")


def _text(item: Any) -> str:
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        return str(item["text"])
    return json.dumps(item, ensure_ascii=False)
