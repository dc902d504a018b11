"""What it takes to start real Docker Engines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

_TOOLS = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "docker-compose": "docker-compose",
    "docker-registry": "docker-registry",
    "mmdebstrap": "mmdebstrap",
    "iptables": "iptables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
}


def missing_engine() -> str | None:
    """Return why no engine can be had here, for people; None where one can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "Docker Engines for tests need Linux and root"
    missing = sorted(package for tool, package in _TOOLS.items() if shutil.which(tool) is None)
    if missing:
        return f"no Docker Engine can be started here: apt-get install {' '.join(missing)}"
    for command, what in (
        (["unshare", "--mount", "--net", "true"], "make namespaces"),
        (["iptables", "-w", "-n", "-L"], "use iptables"),
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
            return f"no Docker Engine can be started here: root may not {what} ({said[0]})"
    return None
