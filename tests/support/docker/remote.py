"""Ways to an engine as on another machine: an SSH server, and certificates."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.docker.free_port import free_port

_SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""
_CLIENT = """\
Host *
  IdentityFile {folder}/user
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
"""


class SshServer:
    """An SSH server on loopback that lets one key in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments by which ssh gets in."""
        return ("-F", str(self._folder / "config"))

    def __enter__(self) -> Self:
        folder = self._folder
        folder.mkdir(mode=0o700)
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
                check=True,
            )
        kind, key = (folder / "host.pub").read_text().split()[:2]
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        (folder / "config").write_text(_CLIENT.format(folder=folder))
        (folder / "sshd").write_text(_SERVER.format(folder=folder, port=self.port))
        # The server separates its privileges into this folder.
        Path("/run/sshd").mkdir(exist_ok=True)
        self.start()
        return self

    def start(self) -> None:
        """Start it, and return when it listens."""
        program = shutil.which("sshd")
        assert program is not None
        self._process = subprocess.Popen(
            [program, "-D", "-q", "-f", str(self._folder / "sshd")], stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not self._listens():
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it; connections that are there stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _listens(self) -> bool:
        command = ["ssh-keyscan", "-p", str(self.port), "-T", "1", "127.0.0.1"]
        return bool(subprocess.run(command, capture_output=True, check=False).stdout)


class Certificates:
    """An authority, a server's certificate for an address, and a client's, as files."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self._address = ipaddress.ip_address(address)
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        self.ca = str(folder / "ca.pem")
        self._write("ca", self._sign(self._name, self._key, None))
        self.server = self._issue("server", ExtendedKeyUsageOID.SERVER_AUTH)
        self.client = self._issue("client", ExtendedKeyUsageOID.CLIENT_AUTH)

    def engine_options(self, port: int) -> tuple[str, ...]:
        """Return the options by which an engine listens with the server's certificate."""
        cert, key = self.server
        return (
            f"--host=tcp://{self._address}:{port}",
            "--tlsverify",
            f"--tlscacert={self.ca}",
            f"--tlscert={cert}",
            f"--tlskey={key}",
        )

    def declared(self) -> dict[str, str]:
        """Return the client's files as a node declares them."""
        cert, key = self.client
        return {"ca": self.ca, "cert": cert, "key": key}

    def _issue(self, name: str, usage: x509.ObjectIdentifier) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._write(name, self._sign(subject, key, usage))
        path = self._folder / f"{name}-key.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return str(self._folder / f"{name}.pem"), str(path)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        usage: x509.ObjectIdentifier | None,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=usage is None, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(self._address)]),
                critical=False,
            )
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate) -> None:
        data = certificate.public_bytes(serialization.Encoding.PEM)
        (self._folder / f"{name}.pem").write_bytes(data)
