"""What a failure tells: to Python, to grpcurl, on the command line, and in the catalogue."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from podbay import PodbayError

__all__ = [
    "CATALOGUE",
    "Refusal",
    "Row",
    "assert_alike",
    "assert_in_catalogue",
    "grpcurl",
    "infer_with_grpcurl",
]

_ERRORS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
_ROUTER = "podbay.v1.InferenceRouterService"


@dataclass(frozen=True)
class Row:
    """A line of docs/errors.md."""

    reason: str
    meaning: str
    evidence: str
    way_out: str

    @property
    def keys(self) -> set[str]:
        """The evidence that is named as it is on the wire, as `exitCode`."""
        return set(re.findall(r"`([a-z]\w+)`", self.evidence))


def _catalogue() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for line in _ERRORS_PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        name = re.fullmatch(r"`([A-Z_]{6,})`", cells[0])
        if line.startswith("| `") and name is not None and len(cells) in (4, 5):
            # A reason of replicas that is one of requests, too, keeps its first line.
            rows.setdefault(name[1], Row(name[1], *cells[-3:]))
    return rows


CATALOGUE: Mapping[str, Row] = _catalogue()
"""The lines of docs/errors.md, by reason."""


@dataclass(frozen=True)
class Refusal:
    """An error of gRPC, as grpcurl prints it with -format-error."""

    code: int
    message: str
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def assert_alike(error: PodbayError, refusal: object, *, same_message: bool = True) -> None:
    """Check that the client and grpcurl were told the same, and that the catalogue has it.

    Args:
        error: What Python was told.
        refusal: What grpcurl was told.
        same_message: Whether the texts are the same, as where a service said both.
    """
    assert isinstance(refusal, Refusal), refusal
    evidence = dict(refusal.metadata)
    not_started = evidence.pop("notStarted", "false") == "true"
    assert (refusal.reason, evidence, not_started) == (
        error.reason,
        error.metadata,
        error.not_started,
    )
    assert grpc.StatusCode[error.code].value[0] == refusal.code
    if same_message:
        assert refusal.message == error.message
    assert_in_catalogue(error.reason, error.metadata)


def assert_in_catalogue(reason: str, metadata: Mapping[str, str]) -> None:
    """Check that docs/errors.md has all of a reason, and that its evidence is there."""
    row = CATALOGUE[reason]
    assert row.meaning
    assert row.evidence, f"docs/errors.md tells no evidence of {reason}"
    assert row.way_out
    assert not row.keys or row.keys & set(metadata), (row, metadata)


def grpcurl(endpoint: str, token: str, method: str, request: object) -> Refusal | Any:
    """Call a service with the real grpcurl.

    Args:
        endpoint: Where the service listens, in plain text.
        token: The token to show.
        method: The full name of the method, with a slash.
        request: The request in its JSON form.

    Returns:
        The first message of the answer; a `Refusal` where the call failed.
    """
    done = subprocess.run(
        (
            *("grpcurl", "-plaintext", "-format-error", "-max-time", "60"),
            *("-max-msg-sz", str(128 << 20), "-H", f"authorization: Bearer {token}"),
            *("-d", "@", endpoint, method),
        ),
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 0:
        return json.JSONDecoder().raw_decode(done.stdout)[0]
    assert done.stderr.startswith("{"), done.stderr
    status = json.loads(done.stderr)
    (info,) = [d for d in status["details"] if d["@type"].endswith("google.rpc.ErrorInfo")]
    assert info["domain"] == "podbay.dev"
    return Refusal(status["code"], status["message"], info["reason"], info.get("metadata", {}))


def infer_with_grpcurl(
    endpoint: str, token: str, session: str, path: str = "echo", body: bytes = b"{}"
) -> Refusal | Any:
    """Make a call of a session with grpcurl; see `grpcurl`.

    Args:
        endpoint: The router's.
        token: The session's token.
        session: The session.
        path: The endpoint at the replica.
        body: JSON, or what is none.
    """
    request = {
        "sessionId": session,
        "endpoint": path,
        "json": base64.b64encode(body).decode(),
    }
    return grpcurl(endpoint, token, f"{_ROUTER}/Infer", request)
