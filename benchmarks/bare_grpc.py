"""Infer in grpc.aio with nothing behind it: what the library alone costs a unary call.

`python -m benchmarks.bare_grpc` prints its port and serves until it is killed.
"""

from __future__ import annotations

from typing import Any

import grpc
import uvloop

from podbay.v1 import inference_router_service_pb2 as pb


async def _infer(request: pb.InferRequest, _context: Any) -> pb.InferResponse:
    return pb.InferResponse(items=[pb.Item(json=request.json)], replica_id="r")


async def _main() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler: Any = grpc.unary_unary_rpc_method_handler(
        _infer, pb.InferRequest.FromString, pb.InferResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "podbay.v1.InferenceRouterService", {"Infer": handler}
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_main())
