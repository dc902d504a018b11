"""Mocks that the tests of the replica's server import by their path."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from podbay.local import mocks
from podbay.schema.platform import InferenceInterface


class Sample:
    """Gives back the request; holds another class."""

    def infer(self, endpoint: str, request: Any) -> Any:
        return {"endpoint": endpoint, "request": request}

    class Inner:
        def infer(self, endpoint: str, request: Any) -> Any:
            return "inner"


class NoInfer:
    pass


class BadConstructor:
    def __init__(self) -> None:
        raise OSError("the weights are gone")

    def infer(self, endpoint: str, request: Any) -> Any:
        return None


class LeavesAtOnce:
    def __init__(self) -> None:
        raise SystemExit(3)

    def infer(self, endpoint: str, request: Any) -> Any:
        return None


class SlowConstructor:
    """Says on standard output that it is being built, then takes its time."""

    def __init__(self) -> None:
        print("building", flush=True)
        time.sleep(60)

    def infer(self, endpoint: str, request: Any) -> Any:
        return None


class Announced:
    """Says on standard output that a call runs, and ends it when a file appears."""

    def infer(self, endpoint: str, request: Any) -> Any:
        print("running", flush=True)
        deadline = time.monotonic() + 30
        while not os.path.exists(request["until"]) and time.monotonic() < deadline:
            time.sleep(0.005)
        return {"done": True}


class Hanging:
    """Says on standard output that a call runs, and never ends it."""

    def infer(self, endpoint: str, request: Any) -> Any:
        print("running", flush=True)
        threading.Event().wait()
        return None


class Handshake(mocks.Mock):
    """Sends one piece, and the second one not before somebody calls the endpoint `go`."""

    def __init__(self) -> None:
        self._go = asyncio.Event()

    @property
    def interface(self) -> InferenceInterface:
        explode = {"kind": "ExplodeCollections", "configuration": {"collections": ["choices"]}}
        transform = {"kind": "TransformJSON", "configuration": {"said": "$.choices.text"}}
        return InferenceInterface.model_validate(
            {
                "endpoint": self.endpoint,
                "outputSchema": {"arrowSchema": ""},
                "outputPipeline": [explode, transform],
            }
        )

    async def infer(self, endpoint: str, request: Any) -> AsyncIterator[Any]:
        if endpoint == "go":
            self._go.set()
            yield {"went": True}
            return
        yield {"choices": [{"text": "one"}, {"text": "two"}]}
        await self._go.wait()
        yield {"choices": [{"text": "three"}]}


not_a_class = 3
