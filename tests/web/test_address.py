"""The address of ``--http`` is read as people write it, and a wrong one is refused."""

from __future__ import annotations

import pytest

from roost import InvalidSettingError
from roost.web import Address, bind, parse_address
from roost.web.server import address_of


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
        ("[::1]:8080", "::1", 8080),
        (":8080", "", 8080),
        ("8080", "", 8080),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
    ],
)
def test_an_address_is_read(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            "localhost",
            "127.0.0.1:",
            "127.0.0.1:http",
            "127.0.0.1:65536",
            "a:-1",
            "::1:80",
        ),
        *("http://127.0.0.1:80", "[localhost]:80", "[::1:80", "a b:80", "user@host:80", "host:²"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettingError, match="must be HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [("127.0.0.1:0", {"127.0.0.1"}), ("localhost:0", {"127.0.0.1"}), (":0", {"::", "0.0.0.0"})],
)
def test_the_real_port_of_a_socket_is_told(text: str, hosts: set[str]) -> None:
    with bind(parse_address(text)) as listening:
        address = address_of(listening)
    assert address.host in hosts
    assert address.port > 0


def test_an_address_with_colons_is_written_in_brackets() -> None:
    assert str(Address("::1", 80)) == "[::1]:80"


def test_a_port_that_is_in_use_is_refused() -> None:
    with (
        bind(Address("127.0.0.1", 0)) as listening,
        pytest.raises(OSError, match="in use"),
    ):
        bind(address_of(listening))
