import socket

import pytest

from apps.operations.address import Address, BadAddress, PortTaken, free_address


def test_a_taken_port_names_one_that_is_free():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(PortTaken, match=rf"Port {port} on 127\.0\.0\.1 is taken.*make run PORT=\d+"):
            free_address("127.0.0.1", port)


def test_port_zero_becomes_a_free_port():
    assert free_address("127.0.0.1", 0).port > 0


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 65536), ("127.0.0.1", -1), ("192.0.2.1", 8000)])
def test_an_address_that_is_none_is_refused(host, port):
    with pytest.raises(BadAddress, match="PORT="):
        free_address(host, port)


@pytest.mark.parametrize(
    ("host", "url", "local"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", True),
        ("localhost", "http://localhost:8000", True),
        ("::1", "http://[::1]:8000", True),
        ("0.0.0.0", "http://127.0.0.1:8000", False),
        ("192.0.2.1", "http://192.0.2.1:8000", False),
        ("netra.example.com", "http://netra.example.com:8000", False),
    ],
)
def test_what_a_browser_types(host, url, local):
    address = Address(host=host, port=8000)

    assert address.url == url
    assert address.is_local is local


def test_a_public_house_answers_to_the_machines_name():
    assert socket.gethostname().lower() in Address(host="0.0.0.0", port=8000).names()
    assert Address(host="127.0.0.1", port=8000).names() == ("127.0.0.1",)
    assert Address(host="::1", port=8000).names() == ("[::1]",)
