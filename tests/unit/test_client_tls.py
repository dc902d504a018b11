"""A client's settings of TLS: arguments before the environment, and no contradictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from podbay._core.settings import Settings
from podbay._core.tls import TlsSettings, certificate_rejected, is_loopback
from podbay.errors import InvalidRequestError

CA, CERT, KEY = Path("/ca.crt"), Path("/c.crt"), Path("/c.key")
ENVIRONMENT = {
    "PODBAY_API_CA_FILE": "/ca.crt",
    "PODBAY_API_CLIENT_CERT_FILE": "/c.crt",
    "PODBAY_API_CLIENT_KEY_FILE": "/c.key",
    "PODBAY_API_SERVER_NAME": "n",
}


def resolve(
    environment: dict[str, str] | None = None, endpoint: str = "h:1", **options: Any
) -> TlsSettings:
    return Settings.resolve(
        endpoint, "t", timeout=1, retries=0, environment=environment or {}, **options
    ).tls


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, {}, TlsSettings()),
        ({}, {"insecure": False}, TlsSettings()),
        ({}, {"insecure": True}, TlsSettings(insecure=True)),
        ({}, {"ca_file": "/ca.crt"}, TlsSettings(enabled=True, ca_file=CA)),
        ({}, {"endpoint": "grpcs://h:1"}, TlsSettings(enabled=True)),
        ({}, {"endpoint": "grpc://h:1"}, TlsSettings()),
        (
            {},
            {"client_cert_file": CERT, "client_key_file": KEY},
            TlsSettings(enabled=True, cert_file=CERT, key_file=KEY),
        ),
        (
            ENVIRONMENT,
            {},
            TlsSettings(enabled=True, ca_file=CA, cert_file=CERT, key_file=KEY, server_name="n"),
        ),
        # What is said in the program goes before.
        (ENVIRONMENT, {"insecure": True}, TlsSettings(insecure=True)),
        (
            {"PODBAY_API_CA_FILE": "/x", "PODBAY_API_SERVER_NAME": "x"},
            {"ca_file": CA, "server_name": "n"},
            TlsSettings(enabled=True, ca_file=CA, server_name="n"),
        ),
        ({"PODBAY_API_INSECURE": "1"}, {}, TlsSettings(insecure=True)),
        ({"PODBAY_API_INSECURE": "TRUE"}, {}, TlsSettings(insecure=True)),
        ({"PODBAY_API_INSECURE": "0"}, {}, TlsSettings()),
        ({"PODBAY_API_INSECURE": "1"}, {"insecure": False}, TlsSettings()),
        ({"PODBAY_API_INSECURE": "1"}, {"ca_file": CA}, TlsSettings(enabled=True, ca_file=CA)),
        # A name alone says nothing of TLS.
        ({"PODBAY_API_SERVER_NAME": "n"}, {}, TlsSettings()),
    ],
)
def test_settings(
    environment: dict[str, str], options: dict[str, Any], expected: TlsSettings
) -> None:
    assert resolve(environment, **options) == expected


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, {"insecure": True, "ca_file": CA}),
        ({}, {"insecure": True, "endpoint": "grpcs://h:1"}),
        ({}, {"client_cert_file": CERT}),
        ({}, {"client_key_file": KEY, "ca_file": CA}),
        ({}, {"server_name": "n"}),
        ({"PODBAY_API_INSECURE": "1", "PODBAY_API_CA_FILE": "/ca.crt"}, {}),
        ({"PODBAY_API_INSECURE": "1"}, {"endpoint": "grpcs://h:1"}),
    ],
)
def test_contradictions(environment: dict[str, str], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        resolve(environment, **options)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"endpoint": "grpcs://h:1"},
        {"ca_file": CA, "server_name": "n"},
        {"client_cert_file": CERT, "client_key_file": KEY},
        {"insecure": True},
    ],
)
def test_a_client_like_this_one_is_like_this_one(given: dict[str, Any]) -> None:
    first = Settings.resolve(
        given.pop("endpoint", "h:1"), "t", timeout=1, retries=0, environment={}, **given
    )
    # In an environment that says something else.
    environment = {**ENVIRONMENT} if not first.tls.enabled else {"PODBAY_API_INSECURE": "1"}
    again = Settings.resolve(**first.again(), environment=environment)
    assert again.endpoint == first.endpoint
    assert (again.tls.enabled, again.tls.ca_file) == (first.tls.enabled, first.tls.ca_file)
    assert again.tls.cert_file == first.tls.cert_file


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("localhost.example:1", False),
        ("10.0.0.1:1", False),
        ("0.0.0.0:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        ("pod.example:1", False),
    ],
)
def test_what_is_this_machine(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_a_reason_that_nobody_foresaw_is_told_as_it_is() -> None:
    error = certificate_rejected("h:1", 7, "signature failure", "h")
    assert error.metadata["problem"] == "invalid"
    assert "signature failure" in error.message
