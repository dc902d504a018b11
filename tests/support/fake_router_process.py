"""A router in a process of its own, to be killed: `python -m tests.support.fake_router_process`.

It takes a port (0 for a free one), writes the port it has, and answers every call with its body,
except those whose body is "hold".
"""

from __future__ import annotations

import sys
import threading

from podbay.v1 import inference_router_service_pb2 as wire
from tests.support.fake_router import FakeRouter, FakeStream


def main() -> None:
    """Serve until killed."""
    router = FakeRouter()

    def answer(stream: FakeStream, call: wire.Call) -> None:
        if call.json == b'"hold"':
            print("held", flush=True)
        else:
            stream.answer(call.id, call.json)

    router.on_call = answer
    router.start(int(sys.argv[1]))
    print(router.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
