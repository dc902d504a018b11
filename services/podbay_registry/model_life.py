"""The life of a model, from its registration until its files are there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from podbay.schema import platform
from podbay.v1 import errors_pb2
from podbay_kit.blob_files import Digests
from podbay_kit.errors import ServiceError

__all__ = [
    "Start",
    "admitted",
    "fetch_failed",
    "fetched",
    "finalized",
    "is_to_fetch",
    "not_ready",
    "not_uploadable",
    "start_of",
]

_S = platform.EntityStatus
_SHOWN_FILES: Final = 10
_MAX_MESSAGE: Final = 2000

_UPLOAD: Final = (
    "Waiting for its files: podbay model upload DIRECTORY --model ID, or "
    "client.models.upload_volume(model, DIRECTORY)."
)
_QUEUED: Final = "Waiting to be fetched."
_OFF: Final = (
    "Registered. This registry does not fetch model files (--no-fetch): an inference service can "
    "name the model, and must bring the files in its image or on its node."
)
_NOTHING: Final = "Nothing is fetched: the artifact is a mock."


@dataclass(frozen=True, slots=True)
class Start:
    """How a model begins: its status, and why."""

    status: str
    message: str | None


def start_of(
    source: platform.ModelSource, artifact: platform.ModelArtifact, *, fetching: bool
) -> Start:
    """Return how a model begins.

    Args:
        source: Where its files come from.
        artifact: How they are kept.
        fetching: Whether this registry fetches.
    """
    if source.kind == platform.ModelSourceKinds.Mock:
        return Start(str(_S.ready), None)
    if artifact.kind == platform.ModelArtifactKind.Mock:
        return Start(str(_S.ready), _NOTHING)
    if source.kind == platform.ModelSourceKinds.Upload:
        return Start(str(_S.waiting_for_upload), _UPLOAD)
    return Start(str(_S.created), _QUEUED if fetching else _OFF)


def is_to_fetch(model: platform.Model) -> bool:
    """Say whether the files of a model are to be fetched, or were on their way."""
    kinds = (platform.ModelSourceKinds.HuggingFaceHub, platform.ModelSourceKinds.GitLFS)
    return model.source.kind in kinds and model.status in (_S.created, _S.admitted)


def admitted(model: platform.Model, message: str, now: datetime) -> platform.Model:
    """Return a model whose fetch is under way; one that has ended stays as it is."""
    return _moved(model, _S.admitted, None, message, now) if is_to_fetch(model) else model


def fetched(model: platform.Model, now: datetime) -> platform.Model:
    """Return a model whose files were fetched; one that has ended stays as it is."""
    return _moved(model, _S.ready, None, None, now) if is_to_fetch(model) else model


def fetch_failed(model: platform.Model, message: str, now: datetime) -> platform.Model:
    """Return a model whose fetch failed; one that has ended stays as it is."""
    if not is_to_fetch(model):
        return model
    reason = str(platform.ModelStatusReason.fetch_failed)
    return _moved(model, _S.error, reason, message[:_MAX_MESSAGE], now)


def finalized(model: platform.Model, stored: dict[str, Digests], now: datetime) -> platform.Model:
    """Return a model whose files were all uploaded; a ready one stays as it is.

    Args:
        model: The model.
        stored: The digests of what is stored, by path.
        now: The time.

    Raises:
        ServiceError: MODEL_FILES_MISSING, MODEL_NOT_UPLOADABLE or REFERENCE_DELETED.
    """
    if model.source.kind == platform.ModelSourceKinds.Upload and model.status == _S.ready:
        return model
    if model.status != _S.waiting_for_upload:
        raise not_uploadable(model)
    files = model.artifact.volume.files if model.artifact.volume else []
    missing = [file.path for file in files if not _is_stored(file, stored.get(file.path))]
    if missing:
        raise _missing(missing, len(files))
    return _moved(model, _S.ready, None, None, now)


def _is_stored(file: platform.File, found: Digests | None) -> bool:
    if found is None or found.size != file.size:
        return False
    return file.digest.md5 is None or file.digest.md5 == found.md5


def not_uploadable(model: platform.Model) -> ServiceError:
    """Return the error of an upload to a model that waits for none."""
    if model.status == _S.deleted:
        return _deleted(model)
    return ServiceError(
        errors_pb2.ERROR_REASON_MODEL_NOT_UPLOADABLE,
        f"The model does not wait for files: its source is {model.source.kind.value} and its "
        f"status {model.status}. Files go to models with the source Upload (podbay model upload "
        "makes one).",
        metadata={"status": model.status, "source": model.source.kind.value},
    )


def not_ready(model: platform.Model) -> ServiceError:
    """Return the error of the use of files that are not there yet, or never will be."""
    if model.status == _S.deleted:
        return _deleted(model)
    way_out = {
        str(_S.waiting_for_upload): "Upload them: podbay model upload DIRECTORY --model ID.",
        str(_S.error): "Delete the model, mend the cause, and create it again.",
    }.get(model.status, "Wait until its status is Ready.")
    why = f": {model.message}" if model.message else ""
    return ServiceError(
        errors_pb2.ERROR_REASON_MODEL_NOT_READY,
        f"The files of the model are not there: it is {model.status}{why} {way_out}",
        metadata={
            "status": model.status,
            "reason": model.reason or "",
            "message": model.message or "",
        },
    )


def _deleted(model: platform.Model) -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_REFERENCE_DELETED,
        "The model was deleted, and its files with it. Name another model, or register it again.",
        metadata={"model": model.id},
    )


def _missing(paths: Sequence[str], count: int) -> ServiceError:
    shown = ", ".join(repr(path) for path in paths[:_SHOWN_FILES])
    more = f" and {len(paths) - _SHOWN_FILES} more" if len(paths) > _SHOWN_FILES else ""
    return ServiceError(
        errors_pb2.ERROR_REASON_MODEL_FILES_MISSING,
        f"{len(paths)} of {count} files are missing: {shown}{more}. Upload them and finalize again "
        "(podbay model upload does both).",
        metadata={"missing": str(len(paths)), "files": "\n".join(paths[:_SHOWN_FILES])},
    )


def _moved(
    model: platform.Model,
    status: platform.EntityStatus,
    reason: str | None,
    message: str | None,
    now: datetime,
) -> platform.Model:
    told = (model.status, model.reason, model.message)
    if told == (str(status), reason, message):
        return model
    return model.model_copy(
        update={
            "status": str(status),
            "reason": reason,
            "message": message,
            "lastTransitionTime": now,
        }
    )
