"""A service around a real model: file bytes in, file type and score out.

`python -m podbay.demo.magika_service` serves Magika, whose weights ship in its package, on `$PORT`:

- `GET /ready`: 200 once the model is loaded, 503 before.
- `POST /classify`: `multipart/form-data` with a file part named `file`; answers `{"label",
  "description", "mimeType", "group", "score", "filename"}`.

It is written as one would write any service, without a line of Podbay in it: what a program needs
is to serve HTTP on `$PORT`. It needs the extra `demo`: `pip install "podbay[demo]"`.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator

__all__ = ["create_app", "main"]

# One request uses one core: two threads for one file take twice the work for a third less time,
# and replicas are how a service gets more. numpy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import onnxruntime
    import uvicorn
    from magika import Magika
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(
        f"podbay.demo.magika_service: {error.name or error} is missing; install the extra `demo`: "
        'pip install "podbay[demo]"\n'
    )
    sys.exit(1)

MAX_FILE_BYTES = 64 << 20

_logger = logging.getLogger("podbay.demo.magika")


class OneThreadMagika(Magika):
    """Magika with a runtime that uses the calling thread only."""

    def _init_onnx_session(self) -> onnxruntime.InferenceSession:
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(
            self._model_path, options, providers=["CPUExecutionProvider"]
        )


def create_app() -> Starlette:
    """Build the application; it loads the model while it already answers `/ready` with 503."""
    model: Magika | None = None

    async def load() -> None:
        nonlocal model
        model = await asyncio.to_thread(OneThreadMagika)
        _logger.info("%s is loaded", model.get_model_name())

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(load(), name="load the model")
        loading.add_done_callback(_stop_if_failed)
        yield
        loading.cancel()

    async def ready(_request: Request) -> JSONResponse:
        if model is None:
            raise HTTPException(503, "the model is loading")
        return JSONResponse({"ready": True})

    async def classify(request: Request) -> JSONResponse:
        if model is None:
            raise HTTPException(503, "the model is loading")
        content, filename = await _read_file(request)
        # A few milliseconds of arithmetic, outside the interpreter's lock for the most part.
        result = await run_in_threadpool(model.identify_bytes, content)
        found = result.output
        return JSONResponse(
            {
                "label": str(found.label),
                "description": found.description,
                "mimeType": found.mime_type,
                "group": found.group,
                "score": float(result.score),
                "filename": filename,
            }
        )

    return Starlette(
        routes=[Route("/ready", ready), Route("/classify", classify, methods=["POST"])],
        exception_handlers={HTTPException: _explain},
        lifespan=lifespan,
    )


def main() -> int:
    """Serve on `$PORT` (8000 if it is not set) of 127.0.0.1 until a signal comes."""
    text = os.environ.get("PORT") or "8000"
    if not text.isdecimal() or int(text) > 65535:
        sys.stderr.write(f"podbay.demo.magika_service: PORT is {text!r}, not a port\n")
        return 64
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    uvicorn.run(
        create_app(),
        host="127.0.0.1",
        port=int(text),
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    return 0


async def _read_file(request: Request) -> tuple[bytes, str]:
    """Take the file out of the form.

    Raises:
        HTTPException: 413 if the request is too large, 400 if it is no form, 422 without a file.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_FILE_BYTES:
        raise HTTPException(413, f"the request is larger than {MAX_FILE_BYTES} bytes")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(400, "the request is not multipart/form-data")
    async with request.form(max_files=1, max_fields=16) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise HTTPException(422, "the form has no file part named 'file'")
        return await upload.read(), upload.filename or "file"


async def _explain(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


def _stop_if_failed(loading: asyncio.Task[None]) -> None:
    """End the process when the model cannot be loaded: it would never get ready."""
    if not loading.cancelled() and (error := loading.exception()) is not None:
        _logger.critical("the model cannot be loaded: %s: %s", type(error).__name__, error)
        logging.shutdown()
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
