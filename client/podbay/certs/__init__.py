"""The certificates of an installation: its authority, and those that it issues."""

from podbay.certs.folder import CertificateFolder, Entry
from podbay.certs.issuing import Certificate

__all__ = ["Certificate", "CertificateFolder", "Entry"]
