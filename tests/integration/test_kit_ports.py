"""Ports that are shared by right, and by nobody else."""

from __future__ import annotations

import socket

import pytest

from podbay_kit.ports import hold_port
from podbay_kit.starting import ListenError, split_address


def shared(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen()
    return made


def test_a_port_is_held_for_those_who_share_it_and_for_nobody_else() -> None:
    holder, listen = hold_port("127.0.0.1:0")
    port = split_address(listen)[1]
    with holder, shared(port), shared(port), pytest.raises(ListenError, match="taken"):
        hold_port(listen)
    again, _ = hold_port(listen)
    again.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_is_held_before_anybody_listens(host: str) -> None:
    holder, listen = hold_port("127.0.0.1:0")
    with holder, pytest.raises(ListenError, match="taken"):
        hold_port(f"{host}:{split_address(listen)[1]}")


def test_a_port_with_connections_of_an_earlier_server_can_be_held() -> None:
    holder, listen = hold_port("127.0.0.1:0")
    address = ("127.0.0.1", split_address(listen)[1])
    with holder, shared(address[1]) as server, socket.create_connection(address) as client:
        server.accept()[0].close()  # this end closes first, and its port is in TIME_WAIT
        assert client.recv(1) == b""
    again, _ = hold_port(listen)
    again.close()


def test_an_address_of_another_machine_cannot_be_held() -> None:
    with pytest.raises(ListenError, match="not one of this machine"):
        hold_port("192.0.2.1:0")
