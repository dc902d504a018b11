"""The load of a peer that speaks HTTP, with aiohttp; runs in the peer's environment.

`python -m benchmarks.peers.load_http PORT CHARACTERS IN_FLIGHT SECONDS` prints one Sample as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import aiohttp
import uvloop

from benchmarks.figures import Sample
from benchmarks.loops import concurrently, until_up
from benchmarks.peers.texts import text_of


async def load(port: int, characters: int, in_flight: int, seconds: float) -> Sample:
    text = text_of(characters)

    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=in_flight)
    ) as session:

        async def call() -> int:
            async with session.post("/echo", json={"text": text}) as answer:
                answer.raise_for_status()
                if (await answer.json())["text"] != text:
                    raise ValueError("the answer is not the text that was sent")
            return 1

        await until_up(call)
        return await concurrently(call, in_flight, seconds=seconds, announce=True)


if __name__ == "__main__":
    target, characters, in_flight, seconds = sys.argv[1:]
    sample = uvloop.run(load(int(target), int(characters), int(in_flight), float(seconds)))
    print(json.dumps(dataclasses.asdict(sample)))
