"""The examples around real models as images: built, pushed, registered and called."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.docker.platform import DockerPlatform, docker_platform
from tests.support.docker.fixtures import Docker
from tests.support.eventually import eventually_sync
from tests.support.pictures import picture_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "containers.md"
# Building the images is part of the first test that wants them.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def running(
    docker: Docker, example_images: dict[str, str], tmp_path: Path
) -> Iterator[DockerPlatform]:
    with docker_platform(docker, tmp_path) as made:
        yield made


def test_files_are_classified(running: DockerPlatform, example_images: dict[str, str]) -> None:
    service = running.service(
        image=example_images["magika"],
        cpu="1",
        memory="512Mi",
        interface={
            "endpoint": "classify",
            "outputSchema": {"arrowSchema": ""},
            "inputPipeline": [
                {"kind": "FileUpload", "configuration": {"field": "$.data", "filename": "$.name"}}
            ],
        },
    )
    session = running.session(service)
    sessions = running.client.inferencesessions
    sessions.wait_ready(session, timeout=120)
    files = {"some.bin": Path(__file__).read_bytes(), "other.bin": picture_of("HAL 9000")}
    items = [
        {"name": name, "data": base64.b64encode(data).decode()} for name, data in files.items()
    ]
    with sessions.client(session, sessions.token(session), interface=service.interface) as calls:
        found = [result.unwrap() for result in calls.infer_many(items)]
    assert [[(one["filename"], one["label"]) for one in items] for items in found] == [
        [("some.bin", "python")],
        [("other.bin", "png")],
    ]
    (container,) = [one for node in running.containers().values() for one in node]
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert container["Config"]["User"] == "65532:65532"
    sessions.terminate(session)
    eventually_sync(lambda: not any(running.containers().values()), "no container is left")


def test_the_listing_of_the_page_reads_a_picture(
    running: DockerPlatform, example_images: dict[str, str], tmp_path: Path
) -> None:
    (listing,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    host, _, rest = example_images["ocr"].partition("/")
    name, _, digest = rest.partition("@")
    for said, meant in (("registry.example", host), ("podbay/ocr", name), ("sha256:…", digest)):
        assert said in listing
        listing = listing.replace(said, meant)
    (tmp_path / "page.png").write_bytes(picture_of("OPEN THE DOORS", "HAL 9000"))
    done = subprocess.run(
        [sys.executable, "-c", listing],
        cwd=tmp_path,
        env={**os.environ, **running.platform.settings()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    scores, lines = zip(*(line.split(" ", 1) for line in done.stdout.splitlines()), strict=True)
    assert [line.upper() for line in lines] == ["OPEN THE DOORS", "HAL 9000"]
    assert min(map(float, scores)) > 0.8
    eventually_sync(lambda: not any(running.containers().values()), "no container is left")


def test_the_images_are_lean(docker: Docker, example_images: dict[str, str]) -> None:
    client = docker.machine.engines[0].client()
    try:
        sizes = {}
        base = client.inspect_image(docker.images.replica)["Size"]
        for target, name in example_images.items():
            image = client.inspect_image(name)
            assert image["Config"]["User"] == "65532:65532"
            sizes[target] = (image["Size"] - base) >> 20
    finally:
        client.close()
    # MiB beyond the base; their libraries and weights take nearly all of it.
    assert sizes["magika"] < 200
    assert sizes["ocr"] < 420
