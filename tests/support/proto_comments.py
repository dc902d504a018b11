"""The comments of RPCs in protos/, as the compiler sees them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pb2

__all__ = ["rpc_comments"]

PROTOS = Path(__file__).resolve().parents[2] / "protos"
_SERVICE, _METHOD = 6, 2  # the numbers of these fields in descriptor.proto


@cache
def rpc_comments() -> dict[str, str]:
    """Return the leading comment of every RPC as one line, by the RPC's full name."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "set"
        names = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*_service.proto"))
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"),
                *("--include_source_info", f"--descriptor_set_out={into}", *names),
            ],
            check=True,
        )
        files = descriptor_pb2.FileDescriptorSet.FromString(into.read_bytes())
    found: dict[str, str] = {}
    for file in files.file:
        comments = {
            tuple(location.path): location.leading_comments
            for location in file.source_code_info.location
        }
        for number, service in enumerate(file.service):
            for index, method in enumerate(service.method):
                comment = comments.get((_SERVICE, number, _METHOD, index), "")
                name = f"/{file.package}.{service.name}/{method.name}"
                found[name] = " ".join(comment.split())
    return found
