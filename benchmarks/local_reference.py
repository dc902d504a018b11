"""The same with the reference's local platform, which calls the mock within the script."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from dyff.audit.local import DyffLocalPlatform, mocks
from dyff.schema.requests import InferenceSessionCreateRequest

TEXT = {"text": "Open the pod bay doors, Hal!"}


class Own(mocks.TextCompletion):  # type: ignore[misc] # of packages that have no types
    """A class of the script."""


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = act()
    return time.perf_counter() - begun, result


def session_client(platform: Any, service: Any) -> Any:
    made = platform.inferencesessions.create(
        InferenceSessionCreateRequest(account="local", inferenceService=service.id)
    )
    return platform.inferencesessions.client(
        made.inferencesession.id, made.token, interface=service.interface
    )


def first(platform: Any, service: Any) -> Any:
    return session_client(platform, service).infer(TEXT)


def main(folder: str, starts: int, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["start"], platform = timed(lambda: DyffLocalPlatform(folder))
    for suffix, mock_type in (("", mocks.TextCompletion), ("_own", Own)):
        service = platform.inferenceservices.create_mock(mock_type, account="local")
        found[f"first{suffix}"] = statistics.median(
            timed(partial(first, platform, service))[0] for _ in range(starts)
        )
        client = session_client(platform, service)
        took = sorted(timed(partial(client.infer, TEXT))[0] for _ in range(count))
        found[f"call{suffix}"] = {"p50": took[count // 2], "p99": took[count * 99 // 100]}
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
