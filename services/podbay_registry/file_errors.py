"""What can be wrong with the files of models, on the registry's disk. Pure."""

from __future__ import annotations

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError
from podbay_registry.file_store import StoredFile

__all__ = [
    "account_full",
    "disk_full",
    "file_damaged",
    "files_elsewhere",
    "quota_full",
    "stopping_error",
]


def disk_full() -> ServiceError:
    """Return the error of a disk that is full."""
    return ServiceError(
        errors_pb2.ERROR_REASON_STORAGE_FULL,
        "The disk of the registry's data directory is full. Make room there, or delete models; "
        "what came is kept, and the upload can go on.",
        metadata={"disk": "full"},
    )


def files_elsewhere() -> ServiceError:
    """Return the error of a registry that does not keep the files."""
    return ServiceError(
        errors_pb2.ERROR_REASON_MODEL_FILES_ELSEWHERE,
        "This registry does not keep the files of models: another registry of the installation "
        "does. Use that one for files; everything else works here as well. Where there is none, "
        "the operator starts the registry that has the folder with --keep-model-files.",
    )


def stopping_error() -> ServiceError:
    """Return the error of work that the end of the service has cut short."""
    return ServiceError(
        errors_pb2.ERROR_REASON_SERVICE_STOPPING,
        "The registry is about to stop. What came is kept; try again.",
        retry_after=0.5,
    )


def quota_full(size: int, used: int, quota: int) -> ServiceError:
    """Return the error of a quota that leaves no room."""
    return ServiceError(
        errors_pb2.ERROR_REASON_STORAGE_FULL,
        f"There is no room for {size} bytes: models use {used} of the {quota} bytes that they may. "
        "Delete models that are not needed (podbay model delete), or have the operator raise "
        "--model-quota.",
        metadata={"needed": str(size), "used": str(used), "quota": str(quota)},
    )


def account_full(account: str, *, needed: int, used: int, limit: int) -> ServiceError:
    """Return the error of an account's quota that leaves no room."""
    return ServiceError(
        errors_pb2.ERROR_REASON_ACCOUNT_STORAGE_FULL,
        f"The quota of account {account} has no room for {needed} bytes: its models use {used} of "
        f"the {limit} bytes that they may. Delete models that are not needed (podbay model "
        "delete), or have the operator raise it (podbay account quota set --model-bytes).",
        metadata={
            "account": account,
            "needed": str(needed),
            "used": str(used),
            "limit": str(limit),
        },
    )


def file_damaged(model: str, file: StoredFile, found: str) -> ServiceError:
    """Return the error of a file that is not what it was, or gone."""
    expected = file.blob.digests.sha256
    what = f"has the SHA-256 {found}" if found else "is gone"
    return ServiceError(
        errors_pb2.ERROR_REASON_MODEL_FILE_DAMAGED,
        f"The file {file.path!r} of the model {what}, and should have {expected}: it was changed "
        "on the registry's disk. Upload the same folder again (podbay model upload DIRECTORY "
        f"--model {model}), or, where the model was fetched, delete it and create it again.",
        metadata={"model": model, "path": file.path, "expected": expected, "found": found},
    )
