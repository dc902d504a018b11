"""The calls on the files of models, and what is sent when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from podbay._core.operations import Operation, Page, Service, StreamOperation, UploadOperation
from podbay._core.resource_ops import read
from podbay._core.transfers import Offer
from podbay._core.wire_errors import invalid
from podbay.errors import PodbayError, error_for
from podbay.schema import convert, platform, requests
from podbay.types import ModelFile
from podbay.v1 import model_pb2
from podbay.v1 import registry_service_pb2 as registry

__all__ = [
    "OFFERS",
    "awaited_files",
    "check_md5",
    "check_ready",
    "download_file",
    "finalize",
    "header",
    "list_files",
    "made_before",
    "model_id_of",
    "model_logs",
    "no_uplink",
    "not_over_in_time",
    "offer_files",
    "upload_file",
    "volume_request",
]

OFFERS: Final = 500
"""How many files are offered in one call."""


_STATES: Final = {
    model_pb2.MODEL_FILE_STATE_MISSING: "Missing",
    model_pb2.MODEL_FILE_STATE_STORED: "Stored",
    model_pb2.MODEL_FILE_STATE_DAMAGED: "Damaged",
}


def check_md5(file: platform.File, md5: str) -> None:
    """Let a file pass that holds what the model was created with.

    Raises:
        InvalidRequestError: It holds something else.
    """
    if file.digest.md5 not in (None, md5):
        raise invalid(
            file.path,
            "is not what the model was created with: its MD5 differs. Create another model, or "
            "restore the file",
            "The volume",
        )


def awaited_files(model: platform.Model) -> list[platform.File]:
    """Return the files that an upload to a model must bring.

    Raises:
        InvalidRequestError: Its source is no upload.
    """
    if model.source.kind != platform.ModelSourceKinds.Upload or model.artifact.volume is None:
        raise invalid(
            "model", f"its files come from elsewhere: its source is {model.source.kind.value}"
        )
    return list(model.artifact.volume.files)


def check_ready(model: platform.Model) -> None:
    """Let a model pass whose files are there.

    Raises:
        ConflictError: They are not.
    """
    if model.status != platform.EntityStatus.ready:
        why = f": {model.message}" if model.message else ""
        raise error_for(
            "MODEL_NOT_READY",
            f"The files of the model are not there: it is {model.status}{why}",
            metadata={"status": model.status, "reason": model.reason or ""},
        )


def volume_request(
    files: Iterable[tuple[str, int, str]],
    *,
    account: str,
    name: str,
    resources: Any,
    accelerators: Sequence[Any] | None,
) -> requests.ModelCreateRequest:
    """Return the request of a model whose files will be uploaded.

    Args:
        files: Path, size and MD5 (in base64) of each.
        account: The account that shall own it.
        name: Its name.
        resources: What a service needs to load it.
        accelerators: The hardware that it can run on.

    Raises:
        InvalidRequestError: It breaks a rule.
    """
    listed = [{"path": path, "size": size, "digest": {"md5": md5}} for path, size, md5 in files]
    values = {
        "account": account,
        "name": name,
        "resources": _plain(resources),
        "source": {"kind": "Upload"},
        "artifact": {"kind": "Volume", "volume": {"files": listed}},
    }
    if accelerators is not None:
        values["accelerators"] = [_plain(each) for each in accelerators]
    return read(requests.ModelCreateRequest, values, "The model")


def made_before(
    models: Iterable[platform.Model], request: requests.ModelCreateRequest
) -> platform.Model | None:
    """Return the model that the same request made, if it takes files or has them all."""
    alive = (platform.EntityStatus.waiting_for_upload, platform.EntityStatus.ready)
    for model in models:
        same = model.source.kind == request.source.kind and model.artifact == request.artifact
        if same and model.status in alive and model.resources == request.resources:
            return model
    return None


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True) if hasattr(value, "model_dump") else value


def list_files(model_id: str, page_token: str) -> Operation[Page[ModelFile]]:
    """Ask for a page of a model's files."""
    return Operation(
        service=Service.REGISTRY,
        method="ListModelFiles",
        what="list the files of the model",
        request=registry.ListModelFilesRequest(id=model_id, page_token=page_token),
        response=registry.ListModelFilesResponse,
        decode=lambda answer: Page([_file(one) for one in answer.files], answer.next_page_token, 0),
    )


def _file(message: model_pb2.ModelFile) -> ModelFile:
    return ModelFile(
        path=message.path,
        size=message.size,
        sha256=message.sha256 or None,
        md5=message.md5 or None,
        state=_STATES.get(message.state, f"State{message.state}"),
    )


def offer_files(model_id: str, offers: Iterable[Offer]) -> Operation[Mapping[str, int]]:
    """Offer files; the answer is where to begin with each that is missing."""
    return Operation(
        service=Service.REGISTRY,
        method="OfferModelFiles",
        what="offer the files of the model",
        request=registry.OfferModelFilesRequest(
            id=model_id, files=[offer.message() for offer in offers]
        ),
        response=registry.OfferModelFilesResponse,
        decode=lambda answer: {need.path: need.offset for need in answer.needs},
    )


def upload_file(path: str) -> UploadOperation[ModelFile]:
    """Upload a file."""
    return UploadOperation(
        service=Service.REGISTRY,
        method="UploadModelFile",
        what=f"upload {path!r}",
        response=registry.UploadModelFileResponse,
        decode=lambda answer: _file(answer.file),
    )


def header(model_id: str, offer: Offer, offset: int) -> registry.UploadModelFileRequest:
    """Return the first message of an upload."""
    return registry.UploadModelFileRequest(
        header=registry.UploadHeader(id=model_id, file=offer.message(), offset=offset)
    )


def finalize(model_id: str) -> Operation[platform.Model]:
    """Make a model ready whose files are all there."""
    return Operation(
        service=Service.REGISTRY,
        method="FinalizeModel",
        what="finalize the model",
        request=registry.FinalizeModelRequest(id=model_id),
        response=registry.FinalizeModelResponse,
        decode=lambda answer: convert.from_proto(answer.model),
    )


def download_file(model_id: str, path: str, offset: int) -> StreamOperation[registry.FileChunk]:
    """Download a file from a byte on."""
    return StreamOperation(
        service=Service.REGISTRY,
        method="DownloadModelFile",
        what=f"download {path!r}",
        request=registry.DownloadModelFileRequest(id=model_id, path=path, offset=offset),
        response=registry.DownloadModelFileResponse,
        decode=lambda answer: [answer.chunk] if answer.HasField("chunk") else [],
    )


def model_logs(model_id: str) -> StreamOperation[str]:
    """Ask for the log of a model."""
    return StreamOperation(
        service=Service.REGISTRY,
        method="StreamModelLogs",
        what="get the log of the model",
        request=registry.StreamModelLogsRequest(id=model_id),
        response=registry.StreamModelLogsResponse,
        decode=lambda answer: list(answer.lines),
    )


def model_id_of(model: platform.Model | str) -> str:
    """Return the id of a model, given as one or by its id."""
    found = model if isinstance(model, str) else getattr(model, "id", None)
    if not isinstance(found, str) or not found:
        raise invalid("model", "must be a model, or the id of one")
    return found


def not_over_in_time(model_id: str, timeout: float | None) -> PodbayError:
    """Return the error of following the log of a model for too short a time."""
    return error_for(
        "DEADLINE_EXCEEDED",
        f"The model {model_id} was neither ready nor failed within {timeout or 0:g} s.",
    )


def no_uplink() -> PodbayError:
    """Return the error of asking for an address to upload to."""
    return error_for(
        "METHOD_NOT_FOUND",
        "Podbay has no signed addresses for uploads over HTTP. Upload with "
        "client.models.upload_volume(model, DIRECTORY), which also finalizes the model.",
    )
