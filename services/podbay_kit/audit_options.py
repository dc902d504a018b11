"""The options of services that keep an audit log."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Final

from podbay_kit.audit_store import Retention

__all__ = ["add_audit_options", "retention_of"]

_MOST_DAYS: Final = 36_500
_DAY: Final = timedelta(days=1)


def add_audit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    keep = Retention()
    group = parser.add_argument_group("the audit log")
    group.add_argument(
        "--audit-days",
        type=_days,
        default=float(keep.age / _DAY),
        metavar="DAYS",
        help="how long entries are kept (default: %(default)g)",
    )
    group.add_argument(
        "--audit-changes",
        type=_count,
        default=keep.changes,
        metavar="N",
        help="how many entries of calls that did what they should are kept (default: %(default)s)",
    )
    group.add_argument(
        "--audit-refusals",
        type=_count,
        default=keep.refusals,
        metavar="N",
        help="how many entries of calls that failed are kept (default: %(default)s)",
    )


def retention_of(options: argparse.Namespace) -> Retention:
    """Return how long entries are kept."""
    return Retention(
        timedelta(days=options.audit_days), options.audit_changes, options.audit_refusals
    )


def _days(text: str) -> float:
    days = float(text)
    if not 0 < days <= _MOST_DAYS:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {_MOST_DAYS}")
    return days


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count
