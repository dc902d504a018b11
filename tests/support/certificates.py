"""Certificates for tests: of an installation, and such that do not fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from podbay.certs import CertificateFolder

__all__ = ["certificates", "expired"]


def certificates(
    folder: Path, installation: str = "acme", names: tuple[str, ...] = ()
) -> CertificateFolder:
    """Make an authority, and certificates of all services."""
    made = CertificateFolder(folder)
    made.ensure(installation, names, datetime.now(UTC))
    return made


def expired(made: CertificateFolder, name: str) -> None:
    """Put a certificate in place that was valid for a day, two days ago."""
    now = datetime.now(UTC)
    made.issue(name, (), now - timedelta(days=3), days=1)
