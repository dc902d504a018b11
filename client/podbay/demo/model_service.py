"""What the example services share: a web server around a model that takes one file a request.

- `GET /ready`: 200 once the model is loaded, 503 before.
- `POST /{endpoint}`: `multipart/form-data` with a file part named `file`; answers JSON.

It is written as one would write any service, and uses nothing of Podbay: what a program needs is to
serve HTTP on `$PORT`. In a container it must be reachable from outside, which `HOST=0.0.0.0` says.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

__all__ = ["MAX_FILE_BYTES", "UnreadableFileError", "create_app", "main"]

M = TypeVar("M")

MAX_FILE_BYTES = 64 << 20

_logger = logging.getLogger("podbay.demo")


class UnreadableFileError(Exception):
    """The file is not what the model takes; the text says what it takes. Answered with 422."""


def create_app(
    endpoint: str, load: Callable[[], M], answer: Callable[[M, bytes], Mapping[str, Any]]
) -> Starlette:
    """Build the application; it loads the model while it already answers `/ready` with 503.

    Args:
        endpoint: Where files are posted, without the leading slash.
        load: Loads the model; runs in a thread.
        answer: Makes the answer of the model and a file's bytes; runs in threads, several at once.
            May raise `UnreadableFileError`.
    """
    models: list[M] = []

    async def load_model() -> None:
        models.append(await asyncio.to_thread(load))
        _logger.info("the model is loaded")

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(load_model(), name="load the model")
        loading.add_done_callback(_stop_if_failed)
        yield
        loading.cancel()

    def loaded() -> M:
        if not models:
            raise HTTPException(503, "the model is loading")
        return models[0]

    async def ready(_request: Request) -> JSONResponse:
        loaded()
        return JSONResponse({"ready": True})

    async def infer(request: Request) -> JSONResponse:
        model = loaded()
        content, filename = await _read_file(request)
        try:
            # Arithmetic, outside the interpreter's lock for the most part.
            found = await run_in_threadpool(answer, model, content)
        except UnreadableFileError as error:
            raise HTTPException(422, str(error)) from None
        return JSONResponse({**found, "filename": filename})

    return Starlette(
        routes=[Route("/ready", ready), Route(f"/{endpoint}", infer, methods=["POST"])],
        exception_handlers={HTTPException: _explain},
        lifespan=lifespan,
    )


def main(app: Starlette) -> int:
    """Serve on `$PORT` (8000 if not set) of `$HOST` (127.0.0.1 if not set) until a signal comes."""
    text = os.environ.get("PORT") or "8000"
    if not text.isdecimal() or int(text) > 65535:
        sys.stderr.write(f"PORT is {text!r}, not a port\n")
        return 64
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    uvicorn.run(
        app,
        host=os.environ.get("HOST") or "127.0.0.1",
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
