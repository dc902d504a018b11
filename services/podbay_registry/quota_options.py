"""The option that says what accounts may have that are made from now on."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from podbay.schema import platform
from podbay.v1 import account_pb2
from podbay_kit.errors import ServiceError
from podbay_kit.quotas import GPU_PREFIX, Quota, quota_of

__all__ = ["default_quota", "limit"]

_FIELDS = {
    "sessions": "sessions",
    "replicas": "replicas",
    "model-bytes": "model_bytes",
    "requests-in-flight": "requests_in_flight",
}


def limit(text: str) -> tuple[str, int]:
    """Read one limit, as "sessions=4", "gpus.nvidia.com/gpu-t4=2" or "model-bytes=500Gi".

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    name, sign, value = text.partition("=")
    if not sign or not (name in _FIELDS or name.removeprefix(GPU_PREFIX) not in ("", name)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=NUMBER with one of {', '.join(_FIELDS)}, gpus.TYPE"
        )
    try:
        return name, platform.quantity_to_int(value)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number, as 4 or 500Gi") from error


def default_quota(limits: Iterable[tuple[str, int]]) -> Quota:
    """Return the quota out of its limits; of two for the same the last holds.

    Raises:
        argparse.ArgumentTypeError: A limit is out of bounds.
    """
    message = account_pb2.AccountQuota()
    try:
        for name, value in limits:
            if name in _FIELDS:
                setattr(message, _FIELDS[name], value)
            else:
                message.gpus[name.removeprefix(GPU_PREFIX)] = value
        return quota_of(message, "--account-quota")
    except (ServiceError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
