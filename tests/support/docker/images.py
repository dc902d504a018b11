"""Images for tests, made on this machine out of Debian's packages: no image registry is asked."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import docker

_REPOSITORY = Path(__file__).resolve().parents[3]
_TOOLS = _REPOSITORY / ".tools"
_SUITE = "bookworm"
_PACKAGES = ("coreutils", "dash", "libpython3.11-stdlib", "libstdc++6", "python3-minimal")
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_REPLICA = Path(__file__).with_name("replica.py")

_NVIDIA_SMI = """\
#!/bin/sh
# Stands in for the tool that a GPU's driver brings: prints what the test says, until
# the GPUs vanish.
[ ! -e /tmp/no-nvml ] && [ -n "$TEST_NVIDIA_SMI" ] && { printf '%s\\n' "$TEST_NVIDIA_SMI"; exit 0; }
echo "Failed to initialize NVML: Unknown Error"
exit 255
"""


def rootfs() -> Path:
    """Return a root file system with a shell and Python as a tarball; made once."""
    key = hashlib.sha256(repr((_SUITE, _PACKAGES, _EXCLUDED)).encode()).hexdigest()[:12]
    path = _TOOLS / f"rootfs-{_SUITE}-{key}.tar"
    _TOOLS.mkdir(exist_ok=True)
    with (_TOOLS / "rootfs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            # The name keeps its end, by which mmdebstrap knows the format.
            new = path.with_name(f"new-{path.name}")
            _run(
                "mmdebstrap",
                "--variant=extract",
                f"--include={','.join(_PACKAGES)}",
                *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
                _SUITE,
                str(new),
            )
            new.rename(path)
    return path


def replica_tarball(folder: Path) -> Path:
    """Return the file system of the test replica as a tarball below `folder`."""
    path = folder / "replica.tar"
    path.write_bytes(rootfs().read_bytes())
    tool = folder / "nvidia-smi"
    tool.write_text(_NVIDIA_SMI)
    with tarfile.open(path, "a") as tar:
        tar.add(_REPLICA, "./opt/replica.py", filter=_root_owned)
        tar.add(tool, "./usr/bin/nvidia-smi", filter=_root_owned)
    return path


def import_image(
    client: docker.APIClient, tarball: Path, name: str, changes: Sequence[str] = ()
) -> None:
    """Make an image out of a file system."""
    answer = client.import_image_from_file(
        str(tarball),
        repository=name,
        tag="test",
        changes=['CMD ["python3", "/opt/replica.py", "serve"]', *changes],
    )
    if "error" in answer:
        raise RuntimeError(answer)


def push(client: docker.APIClient, name: str) -> str:
    """Push an image whose name tells the registry; return its name by digest."""
    digest = ""
    for line in client.push(name, tag="test", stream=True, decode=True):
        if "error" in line:
            raise RuntimeError(line["error"])
        digest = line.get("aux", {}).get("Digest", digest)
    if not digest:
        raise RuntimeError(f"the push of {name} told no digest")
    return f"{name}@{digest}"


def wheels(name: str) -> Path:
    """Return a folder with a set of wheels, fetched once for each content of what says which.

    Our own wheel is among them and may be an old one.
    """
    requirements = _REPOSITORY / "requirements"
    said = (requirements / "dev.txt", requirements / "wheels.py", _REPOSITORY / "pyproject.toml")
    key = hashlib.sha256(b"".join(file.read_bytes() for file in said)).hexdigest()[:12]
    folder = _TOOLS / f"wheels-{name}-{key}"
    _TOOLS.mkdir(exist_ok=True)
    with (_TOOLS / "wheels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = folder.with_name(f"new-{folder.name}")
            _run(sys.executable, str(requirements / "wheels.py"), name, str(new))
            new.rename(folder)
    return folder


def platform_context(folder: Path) -> Path:
    """Return a build context of the platform's images below `folder`, with nothing else in it."""
    return _context(folder, "Dockerfile", "platform", "wheels")


def example_context(folder: Path) -> Path:
    """Return one of the examples' images, likewise."""
    return _context(folder, "examples.Dockerfile", "examples", "example-wheels")


def _context(folder: Path, dockerfile: str, name: str, place: str) -> Path:
    context = folder / "context"
    (context / "build").mkdir(parents=True)
    shutil.copy(_REPOSITORY / dockerfile, context / "Dockerfile")
    collected = context / "build" / place
    shutil.copytree(wheels(name), collected)
    _run(sys.executable, str(_REPOSITORY / "requirements/wheels.py"), "own", str(collected))
    return context


def build(
    client: docker.APIClient,
    context: Path,
    *,
    tag: str,
    target: str | None = None,
    arguments: Mapping[str, str] | None = None,
) -> str:
    """Build a Dockerfile without network; return what the engine told."""
    told: list[str] = []
    for line in client.build(
        path=str(context),
        tag=tag,
        target=target,
        buildargs=dict(arguments or {}),
        network_mode="none",
        rm=True,
        forcerm=True,
        decode=True,
        timeout=600,
    ):
        told.append(line.get("stream", "") or json.dumps(line) + "\n")
        if "error" in line:
            raise RuntimeError("".join(told)[-4000:])
    return "".join(told)


def _root_owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755
    return entry


def _run(*command: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr[-2000:]}")
