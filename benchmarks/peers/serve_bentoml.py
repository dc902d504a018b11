"""An echo in BentoML, its HTTP at PORT; runs in BentoML's environment."""

import os
import sys
from pathlib import Path

import bentoml


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Echo:
    """Gives back the text that it gets."""

    @bentoml.api  # type: ignore[untyped-decorator] # its package is in another environment
    async def echo(self, text: str) -> dict[str, str]:
        """Answer one request."""
        return {"text": text}


if __name__ == "__main__":
    command = str(Path(sys.executable).with_name("bentoml"))
    at = ["--host", "127.0.0.1", "--port", os.environ["PORT"]]
    os.execv(command, [command, "serve", "benchmarks.peers.serve_bentoml:Echo", *at])
