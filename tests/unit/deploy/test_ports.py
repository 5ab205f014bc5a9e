"""The ports of a cluster: documented ones, free ones, and those that are taken."""

import socket

import pytest

from deploy.local.ports import DEFAULTS, FREE, SERVICES, Ports

NAMES = {*DEFAULTS, *(f"metrics_{name}" for name in SERVICES)}


@pytest.mark.parametrize("offset", [0, 100, 1000])
def test_fixed_ports_are_all_there_and_differ(offset: int) -> None:
    ports = Ports.fixed(offset)
    assert set(ports.by_name) == NAMES
    assert len(set(ports.by_name.values())) == len(NAMES)
    assert ports["gateway"] == 8080 + offset
    assert ports["metrics_rag"] == 9106 + offset


def test_free_ports_are_all_there_differ_and_can_be_listened_on() -> None:
    ports = Ports.free()
    assert set(ports.by_name) == NAMES
    assert len(set(ports.by_name.values())) == len(NAMES)
    assert set(ports.by_name.values()) <= set(FREE)
    # Another program may take one just now; not each time.
    assert any(not Ports.free().taken() for _ in range(10))


def test_a_port_that_something_listens_on_is_taken() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        ports = Ports(Ports.free().by_name | {"redis": port})
        assert ports.taken()["redis"] == port
    assert "redis" not in ports.taken()
