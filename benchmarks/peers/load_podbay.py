"""The load of Podbay, with its async client.

`python -m benchmarks.peers.load_podbay "SESSION TOKEN ENDPOINT" CHARACTERS IN_FLIGHT SECONDS`
prints one Sample as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import uvloop

from benchmarks.figures import Sample
from benchmarks.loops import concurrently
from benchmarks.peers.texts import text_of
from podbay import AsyncClient


async def load(target: str, characters: int, in_flight: int, seconds: float) -> Sample:
    text = text_of(characters)
    session_id, token, endpoint = target.split()

    async with AsyncClient() as client:
        session = client.inferencesessions.client(session_id, token, endpoint=endpoint)

        async def call() -> int:
            (answer,) = await session.infer({"text": text})
            if answer["text"] != text:
                raise ValueError("the answer is not the text that was sent")
            return 1

        async with session:
            return await concurrently(call, in_flight, seconds=seconds, announce=True)


if __name__ == "__main__":
    target, characters, in_flight, seconds = sys.argv[1:]
    sample = uvloop.run(load(target, int(characters), int(in_flight), float(seconds)))
    print(json.dumps(dataclasses.asdict(sample)))
