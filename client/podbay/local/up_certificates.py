"""The certificates that `podbay up` starts the services with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from podbay.local.faults import LocalError
from podbay.schema.identities import SERVICES

if TYPE_CHECKING:
    from podbay.local.plan import UpSettings
    from podbay.local.state import DataDir

__all__ = ["RENEW_SECONDS", "UpCertificates", "up_certificates"]

RENEW_SECONDS: Final = 6 * 3600.0
"""How often it is looked whether certificates are due."""

_INSTALLATION: Final = "podbay"


@dataclass(frozen=True, slots=True)
class UpCertificates:
    """The folder of the certificates, and whose they are.

    Attributes:
        folder: Where they are, as `podbay certs` makes it.
        names: Names and addresses that must be in them, where they are our own.
        own: Whether `podbay up` makes and renews them; those that an operator named are theirs.
    """

    folder: Path
    names: tuple[str, ...]
    own: bool

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority, which clients need."""
        return self.folder / "ca.crt"

    def prepare(self) -> bool:
        """Make or renew what must be; return whether anything was.

        Raises:
            LocalError: Certificates of the operator are not there, or ours cannot be made.
        """
        if not self.own:
            missing = [name for name in SERVICES if not (self.folder / name / "tls.crt").exists()]
            if missing or not self.ca_file.exists():
                what = ", ".join(missing) or "the authority (ca.crt)"
                raise LocalError(
                    "CERTIFICATES_NOT_FOUND",
                    f"{self.folder} has no certificates of {what}",
                    way_out=f"make them: podbay certs init {self.folder}; podbay certs issue "
                    f"{self.folder} --name NAME-OF-THIS-MACHINE",
                )
            return False
        try:
            from podbay.certs import CertificateFolder  # noqa: PLC0415 # an extra, and takes long
        except ImportError as error:
            raise LocalError(
                "LOCAL_PLATFORM_NOT_INSTALLED",
                "this installation holds the client only: cryptography is missing",
                way_out="install the local platform: pip install 'podbay[local]'",
            ) from error
        made = CertificateFolder(self.folder).ensure(_INSTALLATION, self.names, datetime.now(UTC))
        return bool(made)


def up_certificates(settings: UpSettings, data: DataDir) -> UpCertificates | None:
    """Return the certificates for the services; None for plain text.

    Raises:
        LocalError: Both are asked for.
    """
    folder = settings.certificates(data)
    if folder is None:
        return None
    return UpCertificates(folder, settings.certificate_names(), own=settings.tls is None)
