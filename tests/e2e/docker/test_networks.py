"""Networks of sessions."""

from __future__ import annotations

import ipaddress

from tests.e2e.docker.conftest import MakeDriver
from tests.support.docker.fixtures import Docker
from tests.support.docker.runs import answer, gone, launch, seen


async def test_addresses_are_found_where_the_engine_has_none_left(
    docker: Docker, make_driver: MakeDriver
) -> None:
    engine = docker.machine.add(networks=False)
    driver = make_driver(engine=engine, subnets=engine.more_subnets)
    specs = [launch(docker.service()) for _ in range(2)]
    for spec in specs:
        await driver.start(spec)
        await answer(driver, spec)
        found = await seen(driver, spec)
        assert found is not None
        subnet = ipaddress.ip_network(engine.more_subnets)
        assert ipaddress.ip_address(found.host) in subnet
    assert len(docker.left(engine)["networks"]) == 2
    for spec in specs:
        await gone(driver, spec)
    assert docker.left(engine) == {}


async def test_a_second_network_of_a_session_does_no_harm_and_is_removed(
    docker: Docker, make_driver: MakeDriver
) -> None:
    """An engine that was frozen may do late, and so twice, what it was asked."""
    driver = make_driver()
    first = launch(docker.service())
    await driver.start(first)
    client = docker.engine.client()
    (name,) = docker.left()["networks"]
    labels = client.inspect_network(name)["Labels"]
    client.create_network(f"{name}-again", driver="bridge", internal=True, labels=labels)
    client.close()
    assert len(docker.left()["networks"]) == 2
    second = launch(docker.service(), session=first.session_id)
    await driver.start(second)
    await answer(driver, second)
    await gone(driver, first)
    await answer(driver, second)
    await gone(driver, second)
    assert docker.left() == {}
