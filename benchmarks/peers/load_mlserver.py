"""The load of MLServer, with its own gRPC stubs; runs in MLServer's environment.

`python -m benchmarks.peers.load_mlserver PORT CHARACTERS IN_FLIGHT SECONDS` prints one Sample as
JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import grpc
import uvloop
from mlserver.grpc.dataplane_pb2 import InferTensorContents, ModelInferRequest
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

from benchmarks.figures import Sample
from benchmarks.loops import concurrently, until_up
from benchmarks.peers.texts import text_of


async def load(port: int, characters: int, in_flight: int, seconds: float) -> Sample:
    text = text_of(characters).encode()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = GRPCInferenceServiceStub(channel)

        async def call() -> int:
            tensor = ModelInferRequest.InferInputTensor(
                name="text",
                datatype="BYTES",
                shape=[1],
                contents=InferTensorContents(bytes_contents=[text]),
            )
            answer = await stub.ModelInfer(ModelInferRequest(model_name="echo", inputs=[tensor]))
            if answer.outputs[0].contents.bytes_contents[0] != text:
                raise ValueError("the answer is not the text that was sent")
            return 1

        await until_up(call)
        return await concurrently(call, in_flight, seconds=seconds, announce=True)


if __name__ == "__main__":
    target, characters, in_flight, seconds = sys.argv[1:]
    sample = uvloop.run(load(int(target), int(characters), int(in_flight), float(seconds)))
    print(json.dumps(dataclasses.asdict(sample)))
