"""What the audit log takes note of, in parts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from podbay.v1 import registry_service_pb2, session_manager_service_pb2
from podbay_kit.audit import AuditRecord, peer_address, shown_account, shown_id
from podbay_kit.audit_refusals import RefusalMeter
from podbay_registry import audited as registry
from podbay_registry.tokens import new_secret
from podbay_session_manager import audited as session_manager

START = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("service", "tables"),
    [
        (registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"], registry),
        (
            session_manager_service_pb2.DESCRIPTOR.services_by_name["SessionManagerService"],
            session_manager,
        ),
    ],
)
def test_every_rpc_either_changes_something_or_not(service, tables) -> None:
    assert not tables.CHANGING & tables.READING
    assert {method.name for method in service.methods} == tables.CHANGING | tables.READING
    # The names say so, too: nobody puts a change among what is only read.
    reads = ("Get", "List", "Watch", "Stream", "Download", "Explain", "Authenticate", "Report")
    for name in tables.READING - {"AcknowledgeRoutes", "ShareLimits"}:
        assert name.startswith(reads), name


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:4711", "127.0.0.1:4711"),
        ("ipv6:%5B::1%5D:4711", "[::1]:4711"),
        ("unix:", "unix:"),
        ("", ""),
    ],
)
def test_where_a_call_came_from(peer: str, address: str) -> None:
    assert peer_address(peer) == address


def test_an_id_that_is_a_secret_is_withheld() -> None:
    assert shown_id(new_secret().secret) == "(withheld)"
    assert shown_id("x" + new_secret().secret) == "(withheld)"
    assert shown_id("eyJhbGciOiJFZERTQSJ9.eyJzaWQiOiJzZXNzaW9uIn0AAAA.c2ln") == "(withheld)"
    assert shown_id("pbt_0123456789abcdef") == "pbt_0123456789abcdef"
    assert shown_id("gpu-1.rack.example.com") == "gpu-1.rack.example.com"
    assert len(shown_id("a" * 5000)) == 128
    assert shown_id("a\nb\x00") == "a?b?"


def test_an_account_that_is_none_is_shown_as_an_id_is() -> None:
    assert shown_account("acme.a-long-name-of-a-division") == "acme.a-long-name-of-a-division"
    assert shown_account(new_secret().secret) == "(withheld)"
    assert shown_account(new_secret().secret[:-1]) == "(withheld)"
    assert shown_account("x" + new_secret().secret) == "(withheld)"
    assert shown_account("eyJhbGciOiJFZERTQSJ9.eyJzaWQiOiJzZXNzaW9u" + "A" * 40) == "(withheld)"
    assert len(shown_account("a" * 3_000_000)) == 128
    assert shown_account("a\nb\x00") == "a?b?"


def test_an_id_of_megabytes_is_shown_without_being_searched_again_and_again() -> None:
    # Hours, were each character tried as the beginning of a secret.
    assert len(shown_id("x" * 20_000_000)) == 128
    assert len(shown_id("x." * 10_000_000)) == 128
    assert shown_id("x" * 100 + "y." + "z" * 20_000_000) == "(withheld)"


@pytest.mark.parametrize(
    ("text", "is_secret"),
    [
        ("a.b.pbt_1234." + "z" * 20, True),
        ("pbt." + "z" * 20, False),
        ("pbt_." + "z" * 19, False),
        ("pbt_/pbt_." + "z" * 20, True),
        ("pbt_.." + "z" * 20, False),
        ("." + "z" * 20, False),
    ],
)
def test_what_looks_like_a_secret(text: str, is_secret: bool) -> None:
    assert (shown_id(text) == "(withheld)") is is_secret


def refusal(number: int, method: str = "ListModels", host: str = "10.0.0.1") -> AuditRecord:
    return AuditRecord(
        id=f"{number:032}",
        time=START + timedelta(seconds=number),
        method=method,
        peer=f"{host}:{1000 + number}",
        code=16,
        reason=21,
    )


def test_a_flood_of_refusals_is_summed_up() -> None:
    meter = RefusalMeter(burst=10, per_second=1.0)
    written = 0
    for number in range(5000):
        record = refusal(number)
        if meter.admits(100.0 + number / 1000):
            written += 1
        else:
            meter.count(record)
    assert 10 <= written <= 15
    (summed,) = meter.take()
    assert summed.count == 5000 - written
    assert (summed.method, summed.code, summed.reason) == ("ListModels", 16, 21)
    assert summed.peer == "10.0.0.1", "ports differ, the host does not"
    assert summed.first_time is not None
    assert summed.first_time < summed.time
    assert meter.take() == []


def test_many_kinds_of_refusals_are_bounded_too() -> None:
    meter = RefusalMeter(burst=0, kinds=20)
    for number in range(1000):
        assert not meter.admits(1.0)
        meter.count(refusal(number, host=f"10.0.{number // 200}.{number % 200}"))
    sums = meter.take()
    assert len(sums) == 21
    assert sum(each.count for each in sums) == 1000
    others = [each for each in sums if each.details]
    assert [each.count for each in others] == [980]
    # What could not be written is counted on.
    for each in sums:
        meter.count(each)
    assert sum(each.count for each in meter.take()) == 1000


def test_room_for_refusals_comes_back() -> None:
    meter = RefusalMeter(burst=2, per_second=0.5)
    assert [meter.admits(at) for at in (0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 100.0, 100.0, 100.0)] == [
        *(True, True, False, False, True, False, True, True, False)
    ]


def test_a_sum_that_could_not_be_written_is_counted_on_as_it_was() -> None:
    meter = RefusalMeter(burst=0, kinds=1)
    for number in range(3):
        meter.count(refusal(number))
        meter.count(refusal(number, method="ListAccounts"))
    sums = meter.take()
    # What comes meanwhile is later, and is counted before the sums come back.
    meter.count(refusal(9))
    for each in sums:
        meter.count(each)
    one, others = meter.take()
    assert (one.method, one.count, one.time) == ("ListModels", 4, START + timedelta(seconds=9))
    assert one.peer == "10.0.0.1"
    assert (others.method, others.count, others.details) == (
        "",
        3,
        {"summary": "refusals of several kinds"},
    )
    assert one.first_time == others.first_time == START
