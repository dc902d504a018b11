"""What a node really has, beside what was declared of it."""

from __future__ import annotations

from podbay_session_manager.declared_nodes import DeclaredGpu
from podbay_session_manager.drivers.containers.driver import DockerDriver
from podbay_session_manager.drivers.containers.probe import LOOKING
from podbay_session_manager.drivers.contract import NodeFacts
from tests.e2e.docker.conftest import MakeDriver
from tests.support.docker.fixtures import Docker
from tests.support.session_manager import until

T4 = DeclaredGpu("0", "nvidia.com/gpu-t4", 15 << 30)


async def looked(driver: DockerDriver) -> NodeFacts:
    """Return what is told of the node once it was looked at."""

    async def look() -> NodeFacts | None:
        (facts,) = await driver.nodes()
        return None if LOOKING in facts.warnings else facts

    return await until(look)


async def test_what_is_as_declared_gives_no_warning(
    docker: Docker, make_driver: MakeDriver
) -> None:
    facts = await looked(make_driver(gpus=(T4,), gpu_probe_image=docker.images.gpu))
    assert facts.warnings == ()
    assert facts.failed_gpus == ()
    assert facts.cpus >= 1
    assert facts.memory_bytes > 0
    assert docker.left() == {}


async def test_what_differs_is_told(docker: Docker, make_driver: MakeDriver) -> None:
    other = DeclaredGpu("GPU-bbbb", "nvidia.com/gpu-h100")
    large = DeclaredGpu("0", "nvidia.com/gpu-t4", 80 << 30)
    driver = make_driver(gpus=(large, other), gpu_probe_image=docker.images.gpu, cpus=4096.0)
    facts = await looked(driver)
    text = "\n".join(facts.warnings)
    assert "4096 CPUs were declared" in text
    assert "the GPU 0 (Tesla T4) has 15109 MiB of memory, and 81920 MiB were declared" in text
    assert "the GPU GPU-bbbb (nvidia.com/gpu-h100) is not there, or has failed" in text
    assert facts.failed_gpus == ("GPU-bbbb",)
    assert facts.cpus < 4096


async def test_gpus_whose_driver_fails_have_failed(docker: Docker, make_driver: MakeDriver) -> None:
    driver = make_driver(gpus=(T4,), gpu_probe_image=docker.images.replica)
    facts = await looked(driver)
    assert facts.failed_gpus == ("0",)
    assert any("Failed to initialize NVML" in warning for warning in facts.warnings)


async def test_an_engine_without_gpus_has_none(docker: Docker, make_driver: MakeDriver) -> None:
    plain = docker.machine.add(gpus=False)
    driver = make_driver(engine=plain, gpus=(T4,), gpu_probe_image=docker.images.gpu)
    facts = await looked(driver)
    assert facts.failed_gpus == ("0",)
    assert any("containers get no GPUs" in warning for warning in facts.warnings)
    assert docker.left(plain) == {}


async def test_a_probe_that_cannot_be_made_says_nothing_of_the_gpus(
    docker: Docker, make_driver: MakeDriver
) -> None:
    nowhere = f"{docker.registry.host}/test/none@sha256:{'0' * 64}"
    facts = await looked(make_driver(gpus=(T4,), gpu_probe_image=nowhere))
    assert facts.failed_gpus == ()
    assert any("could not be looked at" in warning for warning in facts.warnings)
    (facts,) = await make_driver(gpus=(T4,)).nodes()
    assert facts.failed_gpus == ()
    assert any("are not looked at" in warning for warning in facts.warnings)
