"""What a script with a LocalPlatform sees, in seconds: `local_podbay.py FOLDER STARTS CALLS`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from podbay.local import LocalPlatform, mocks

TEXT = {"text": "Open the pod bay doors, Hal!"}


class Own(mocks.TextCompletion):
    """A class of the script: it runs in this process."""


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = act()
    return time.perf_counter() - begun, result


def first_answers(platform: LocalPlatform, service: Any, count: int) -> float:
    """Return the median from the creation of a session to its first answer."""

    def first() -> Any:
        made = platform.inferencesessions.create(
            {"account": service.account, "inferenceService": service.id}
        )
        client = platform.inferencesessions.client(
            made.inferencesession.id, made.token, interface=service.interface
        )
        assert len(client.infer(TEXT, wait=True)) == 2
        return made.inferencesession.id, client

    took = []
    for _ in range(count):
        seconds, (session, client) = timed(first)
        took.append(seconds)
        client.close()
        platform.inferencesessions.terminate(session)
    return statistics.median(took)


def calls(platform: LocalPlatform, service: Any, count: int) -> dict[str, float]:
    made = platform.inferencesessions.create(
        {"account": service.account, "inferenceService": service.id}
    )
    with platform.inferencesessions.client(
        made.inferencesession.id, made.token, interface=service.interface
    ) as client:
        client.wait_ready(timeout=60)
        for _ in range(count // 10):
            client.infer(TEXT)
        took = sorted(timed(lambda: client.infer(TEXT))[0] for _ in range(count))
    return {"p50": took[count // 2], "p99": took[count * 99 // 100]}


def main(folder: str, starts: int, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["start"], platform = timed(lambda: LocalPlatform(folder))
    create = platform.inferenceservices.create_mock
    services = {
        "": create(mocks.TextCompletion),
        "_own": create(Own),
        # By its import path, as any class of a module that is not Podbay's own.
        "_module": create(mocks.TextCompletion, env={"PODBAY_MOCK_SEED": "1"}),
    }
    for suffix, service in services.items():
        found[f"first{suffix}"] = first_answers(platform, service, starts)
    for suffix in ("", "_own"):
        found[f"call{suffix}"] = calls(platform, services[suffix], count)
    found["stop"], _ = timed(platform.close)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
