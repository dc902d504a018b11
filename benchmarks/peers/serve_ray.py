"""An echo in Ray Serve, its HTTP at PORT; runs in Ray's environment."""

import os
import signal
import tempfile
from typing import Any

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class Echo:
    """Gives back the JSON that it gets."""

    async def __call__(self, request: Request) -> Any:
        """Answer one request."""
        return await request.json()


def main() -> None:
    """Serve until SIGTERM."""
    signals = {signal.SIGTERM, signal.SIGINT}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        try:
            http = {"host": "127.0.0.1", "port": int(os.environ["PORT"])}
            serve.start(http_options=http, logging_config={"enable_access_log": False})
            serve.run(Echo.bind(), route_prefix="/echo")  # type: ignore[attr-defined] # of Ray
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            signal.sigwait(signals)
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    main()
