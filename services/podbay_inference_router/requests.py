"""Whether a call can be sent, and what exactly is sent. Pure, but for a random boundary."""

import re
import secrets
from typing import Final, NamedTuple

from podbay.v1.errors_pb2 import CallError
from podbay.v1.inference_router_service_pb2 import (
    Call,
    FileUpload,
    InferRequest,
    StreamInferRequest,
)
from podbay_inference_router import multipart, values
from podbay_inference_router.failures import body_too_large, invalid

__all__ = ["JSON_TYPE", "Request", "RequestError", "check_key", "prepare"]

JSON_TYPE: Final = "application/json"

# What RFC 3986 allows in a path and a query: no blanks, controls, quotes or non-ASCII letters, so
# nothing in it can end the request line.
_PATH: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})+")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/")
_MEDIA_TYPE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_MAX_PATH: Final = 2048
_MAX_KEY: Final = 1024

# Endpoints that were found to be good: a service has few. Bounded for those who vary a query.
_good: dict[str, str] = {}
_MAX_GOOD: Final = 1024


class RequestError(Exception):
    """A call cannot be sent; `failure` says why."""

    def __init__(self, failure: CallError) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Request(NamedTuple):
    """What is sent to a replica."""

    path: str
    """The path with its leading slash, ready for a request line."""
    content_type: str
    body: bytes
    wants_values: bool
    """Whether the answer shall come as google.protobuf.Value."""


def prepare(message: Call | InferRequest | StreamInferRequest, max_body: int) -> Request:
    """Check a call and write its body.

    Args:
        message: The call.
        max_body: The largest body in bytes.

    Returns:
        What to send.

    Raises:
        RequestError: INVALID_REQUEST with the field's path, or BODY_TOO_LARGE.
    """
    endpoint = message.endpoint
    path = _good.get(endpoint) or _check_path(endpoint)
    body = message.json
    if body:
        if len(body) > max_body:
            raise RequestError(body_too_large(len(body), max_body))
        return Request(path, JSON_TYPE, body, False)
    return _prepare_other(message, path, max_body)


def check_key(key: str) -> str:
    """Return an affinity key of at most 1 KiB.

    Raises:
        RequestError: INVALID_REQUEST.
    """
    if len(key) > _MAX_KEY or (not key.isascii() and len(key.encode()) > _MAX_KEY):
        raise RequestError(invalid("affinityKey", f"is longer than {_MAX_KEY} bytes"))
    return key


def _prepare_other(
    message: Call | InferRequest | StreamInferRequest, path: str, max_body: int
) -> Request:
    wants_values = False
    match message.WhichOneof("body"):
        case "json":
            raise RequestError(invalid("body", "is empty; send one JSON value"))
        case "file_upload":
            content_type, body = _write_upload(message.file_upload, max_body)
        case "value" if not isinstance(message, Call):
            content_type, wants_values = JSON_TYPE, True
            try:
                body = values.to_json(message.value)
            except values.ValueFormError as error:
                raise RequestError(invalid("value", str(error))) from error
        case _:
            raise RequestError(invalid("body", "is required"))
    if len(body) > max_body:
        raise RequestError(body_too_large(len(body), max_body))
    return Request(path, content_type, body, wants_values)


def _write_upload(upload: FileUpload, max_body: int) -> tuple[str, bytes]:
    for path, value in (
        ("fileUpload.name", upload.name),
        ("fileUpload.filename", upload.filename),
        ("fileUpload.contentType", upload.content_type),
    ):
        if not value:
            raise RequestError(invalid(path, "is required"))
    if not _MEDIA_TYPE.fullmatch(upload.content_type):
        raise RequestError(
            invalid("fileUpload.contentType", "must be printable ASCII without line breaks")
        )
    if len(upload.content) > max_body:
        raise RequestError(body_too_large(len(upload.content), max_body))
    return multipart.encode(upload, secrets.token_hex(16))


def _check_path(endpoint: str) -> str:
    if not endpoint:
        raise RequestError(invalid("endpoint", "is required"))
    if len(endpoint) > _MAX_PATH:
        raise RequestError(invalid("endpoint", f"is longer than {_MAX_PATH} characters"))
    if _SCHEME.match(endpoint):
        raise RequestError(
            invalid("endpoint", "is a URL; give the path at the replica, as v1/completions")
        )
    if not _PATH.fullmatch(endpoint):
        raise RequestError(
            invalid(
                "endpoint",
                "holds a character that a path cannot; percent-encode blanks, controls and all "
                "that is not ASCII",
            )
        )
    path = endpoint.removeprefix("/")
    if path.startswith("/"):
        raise RequestError(invalid("endpoint", "begins with more than one slash"))
    segments = path.partition("?")[0].split("/")
    if "." in segments or ".." in segments:
        raise RequestError(invalid("endpoint", 'holds a "." or ".." segment'))
    if len(_good) >= _MAX_GOOD:
        _good.clear()
    path = _good[endpoint] = f"/{path}"
    return path
