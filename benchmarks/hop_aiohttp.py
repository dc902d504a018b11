"""The hop with aiohttp's client, for comparison. Needs aiohttp and nothing of ours.

`python hop_aiohttp.py ADDRESS IN_FLIGHT REQUESTS` prints the seconds that the requests took.
"""

import asyncio
import sys
import time

import aiohttp
import uvloop

BODY = b'{"text": "Open the pod bay doors, Hal!"}'


async def main(address: str, in_flight: int, requests: int) -> float:
    left = requests

    async def one_after_another(session: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            async with session.post(
                f"http://{address}/echo", data=BODY, headers={"content-type": "application/json"}
            ) as answer:
                await answer.read()

    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:
        started = time.perf_counter()
        await asyncio.gather(*(one_after_another(session) for _ in range(in_flight)))
        return time.perf_counter() - started


print(uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
