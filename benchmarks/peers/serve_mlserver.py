"""An echo in MLServer, its gRPC at PORT; runs in MLServer's environment."""

import asyncio
import os

import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Echo(MLModel):  # type: ignore[misc] # its package is in another environment
    """Gives back the tensor that it gets."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        given = payload.inputs[0]
        output = ResponseOutput(
            name="text", shape=given.shape, datatype=given.datatype, data=given.data
        )
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    """Serve until SIGTERM, as `mlserver start` does; what only costs time is off."""
    port = int(os.environ["PORT"])
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        grpc_port=port,
        http_port=port + 1,
        metrics_endpoint=None,
        parallel_workers=0,  # the model in the server's process: faster than a process of its own
    )
    model = ModelSettings(name="echo", implementation=Echo)
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main())
