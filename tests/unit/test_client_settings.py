"""What a client is told, and by whom."""

from __future__ import annotations

import pytest

from podbay import Client
from podbay._core.channels import channel_options
from podbay._core.settings import Settings, parse_endpoint
from podbay._core.tls import TlsSettings
from podbay.errors import InvalidRequestError

ENVIRONMENT = {"PODBAY_API_ENDPOINT": "e:1", "PODBAY_API_TOKEN": "t\n"}


def resolve(
    endpoint: str | None = None,
    token: str | None = None,
    environment: dict[str, str] | None = None,
    **options: float,
) -> Settings:
    return Settings.resolve(
        endpoint,
        token,
        timeout=options.get("timeout", 30.0),
        retries=int(options.get("retries", 3)),
        environment=ENVIRONMENT if environment is None else environment,
    )


def test_arguments_win_over_the_environment() -> None:
    assert (resolve().endpoint, resolve().api_token) == ("e:1", "t")
    given = resolve("a:2", "u")
    assert (given.endpoint, given.api_token) == ("a:2", "u")
    assert "u'" not in repr(given)


@pytest.mark.parametrize(
    "environment", [{}, {"PODBAY_API_ENDPOINT": "e:1"}, {"PODBAY_API_TOKEN": "t"}]
)
def test_what_is_missing_is_named_with_both_variables(environment: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(environment=environment)
    assert "PODBAY_API_ENDPOINT" in str(caught.value)
    assert "PODBAY_API_TOKEN" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("h:1", "h:1"),
        (" grpc://h.example:65535/ ", "h.example:65535"),
        ("127.0.0.1:7101/", "127.0.0.1:7101"),
        ("[::1]:7101", "[::1]:7101"),
    ],
)
def test_forms_of_an_endpoint(text: str, address: str) -> None:
    assert parse_endpoint(text) == address


@pytest.mark.parametrize(
    "text", ["h", "h:0", "h:65536", "http://h:1", "h:1/path", "u@h:1", "::1:7", "h:x", ""]
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="127.0.0.1:7101"):
        parse_endpoint(text)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("nan")}, {"retries": -1}])
def test_numbers_make_sense(options: dict[str, float]) -> None:
    with pytest.raises(InvalidRequestError):
        resolve(**options)


@pytest.mark.parametrize("token", ["a\nb", "é"])
def test_tokens_fit_into_metadata(token: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(token=token)
    assert token not in str(caught.value)


def test_a_proxy_is_no_way_to_this_machine() -> None:
    off, tls = ("grpc.enable_http_proxy", 0), TlsSettings()
    assert off in channel_options("127.0.0.1:1", tls)
    assert off in channel_options("[::1]:1", tls)
    assert off in channel_options("localhost:1", tls)
    assert off not in channel_options("example.com:1", tls)


def test_a_client_sends_nothing_and_closes_more_than_once() -> None:
    client = Client("127.0.0.1:1", "t")
    assert client.endpoint == "127.0.0.1:1"
    client.close()
    client.close()
