"""Statuses, their reasons, and what they mean."""

from enum import StrEnum

__all__ = [
    "EntityStatus",
    "EntityStatusReason",
    "InferenceServiceStatus",
    "InferenceServiceStatusReason",
    "InferenceSessionStatus",
    "InferenceSessionStatusReason",
    "ModelStatus",
    "ModelStatusReason",
    "is_status_failure",
    "is_status_success",
    "is_status_terminal",
]


class EntityStatus(StrEnum):
    """Statuses that a resource of any kind may have.

    On the wire and in entities a status is a plain string, so a status that is not listed here
    is not an error; it is neither terminal, nor a success, nor a failure.
    """

    created = "Created"
    schedulable = "Schedulable"
    admitted = "Admitted"
    ready = "Ready"
    complete = "Complete"
    error = "Error"
    failed = "Failed"
    terminated = "Terminated"
    deleted = "Deleted"
    denied = "Denied"
    approved = "Approved"
    # The platform uses it for models that await their files, and publishes no constant.
    waiting_for_upload = "WaitingForUpload"


class EntityStatusReason(StrEnum):
    """Reasons that a resource of any kind may have."""

    quota_limit = "QuotaLimit"
    unsatisfied_dependency = "UnsatisfiedDependency"
    failed_dependency = "FailedDependency"
    terminate_command = "TerminateCommand"
    delete_command = "DeleteCommand"
    expired = "Expired"
    interrupted = "Interrupted"
    schema_error = "SchemaError"


class ModelStatus(StrEnum):
    """Statuses of a model."""

    created = "Created"
    admitted = "Admitted"
    ready = "Ready"
    error = "Error"


class ModelStatusReason(StrEnum):
    """Reasons of a model."""

    quota_limit = "QuotaLimit"
    fetch_failed = "FetchFailed"


class InferenceServiceStatus(StrEnum):
    """Statuses of an inference service."""

    created = "Created"
    admitted = "Admitted"
    ready = "Ready"
    error = "Error"


class InferenceServiceStatusReason(StrEnum):
    """Reasons of an inference service."""

    quota_limit = "QuotaLimit"
    build_failed = "BuildFailed"
    no_such_model = "NoSuchModel"
    waiting_for_model = "WaitingForModel"


class InferenceSessionStatus(StrEnum):
    """Statuses of an inference session. A session never becomes Ready: readiness is asked for."""

    created = "Created"
    admitted = "Admitted"
    terminated = "Terminated"
    error = "Error"


class InferenceSessionStatusReason(StrEnum):
    """Reasons of an inference session."""

    quota_limit = "QuotaLimit"
    terminate_command = "TerminateCommand"
    session_expired = "SessionExpired"


_SUCCESS = frozenset({EntityStatus.ready, EntityStatus.complete, EntityStatus.approved})
_FAILURE = frozenset({EntityStatus.error, EntityStatus.failed, EntityStatus.denied})
_ENDED = frozenset({EntityStatus.terminated, EntityStatus.deleted})


def is_status_terminal(status: str) -> bool:
    """Whether a resource with this status will not change by itself any more."""
    return status in _SUCCESS or status in _FAILURE or status in _ENDED


def is_status_success(status: str) -> bool:
    """Whether this status says that the work succeeded."""
    return status in _SUCCESS


def is_status_failure(status: str) -> bool:
    """Whether this status says that the work failed."""
    return status in _FAILURE
