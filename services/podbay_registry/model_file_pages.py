"""Pages of the files of a model, as messages. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from podbay.schema import platform
from podbay.v1 import errors_pb2, model_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.blob_files import Digests
from podbay_kit.errors import ServiceError
from podbay_registry.file_store import StoredFile

__all__ = ["awaited_files", "page_of_files", "path_of", "stored_message"]


def awaited_files(model: platform.Model) -> dict[str, platform.File]:
    """Return the files that an uploaded model has, by path."""
    if model.source.kind != platform.ModelSourceKinds.Upload or model.artifact.volume is None:
        return {}
    return {file.path: file for file in model.artifact.volume.files}


def page_of_files(
    awaited: Mapping[str, platform.File], stored: Sequence[StoredFile], *, after: str, size: int
) -> pb.ListModelFilesResponse:
    """Return a page of files, ordered by path.

    Args:
        awaited: The files that the model shall have, by path.
        stored: Those that are stored, beyond `after`; one more than the page where there are more.
        after: The last path of the page before.
        size: The most files of the page.
    """
    there = {file.path: file for file in stored}
    listed = sorted(path for path in awaited.keys() | there.keys() if path > after)
    files = [_message(path, awaited.get(path), there.get(path)) for path in listed[:size]]
    token = _token_of(listed[size - 1]) if len(listed) > size else ""
    return pb.ListModelFilesResponse(files=files, next_page_token=token)


def _message(
    path: str, awaited: platform.File | None, stored: StoredFile | None
) -> model_pb2.ModelFile:
    if stored is not None:
        return stored_message(path, stored.blob.digests, damaged=stored.blob.damaged is not None)
    assert awaited is not None  # noqa: S101 # it is listed because it is one or the other
    return model_pb2.ModelFile(
        path=path,
        size=awaited.size,
        md5=awaited.digest.md5 or "",
        state=model_pb2.MODEL_FILE_STATE_MISSING,
    )


def stored_message(path: str, digests: Digests, *, damaged: bool = False) -> model_pb2.ModelFile:
    """Return the message of a file that is stored."""
    state = model_pb2.MODEL_FILE_STATE_DAMAGED if damaged else model_pb2.MODEL_FILE_STATE_STORED
    return model_pb2.ModelFile(
        path=path, size=digests.size, sha256=digests.sha256, md5=digests.md5, state=state
    )


def _token_of(path: str) -> str:
    return base64.urlsafe_b64encode(path.encode()).decode("ascii")


def path_of(token: str) -> str:
    """Return the path after which a page begins.

    Raises:
        ServiceError: INVALID_PAGE_TOKEN.
    """
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise ServiceError(
            errors_pb2.ERROR_REASON_INVALID_PAGE_TOKEN,
            "The page token is not one of this list. Start again from the first page.",
        ) from None
