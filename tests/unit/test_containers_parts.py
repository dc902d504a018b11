"""The pure parts of the docker driver."""

from __future__ import annotations

import io
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podbay_kit.process import SettingsError
from podbay_session_manager.declared_nodes import DeclaredGpu, DeclaredNode, EngineTls
from podbay_session_manager.drivers.containers.addresses import published_at
from podbay_session_manager.drivers.containers.archives import FilesUnreadableError, tar_of
from podbay_session_manager.drivers.containers.config import (
    MountedFolder,
    container_config,
    declared_folders,
)
from podbay_session_manager.drivers.containers.engine import EngineClient, EngineError
from podbay_session_manager.drivers.containers.factory import (
    check_engine,
    make_docker_driver,
)
from podbay_session_manager.drivers.containers.failures import (
    end_reason,
    pull_failure,
    start_failure,
)
from podbay_session_manager.drivers.containers.labels import Ownership
from podbay_session_manager.drivers.containers.logs import split_message
from podbay_session_manager.drivers.containers.observe import observed
from podbay_session_manager.drivers.containers.probe import (
    compare,
    compare_gpus,
    identity,
    parse_gpus,
)
from podbay_session_manager.drivers.containers.settings import DockerSettings
from podbay_session_manager.drivers.containers.support import supports_image
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    LaunchSpec,
    StartFailedError,
)
from podbay_session_manager.records import DataMount, Reason, ServiceSpec, Serving

IMAGE = "registry.example/team/model@sha256:" + "a" * 64
SERVICE = ServiceSpec(kind="container", name="x", image=IMAGE)
SETTINGS = DockerSettings("installation", Path("/logs"))
OWNER = Ownership("installation", "3")
NODE = DeclaredNode("n1", "unix:///run/docker.sock")


def config(service: ServiceSpec = SERVICE, image: Any = None, **more: Any) -> dict[str, Any]:
    spec = LaunchSpec("r1", "s1", service, Serving(), "n1", gpus=more.pop("gpus", ()))
    settings = replace(SETTINGS, **more.pop("settings", {}))
    return container_config(
        spec, image or {}, "net", more.pop("mounts", ()), OWNER, settings, **more
    )


class TestConfig:
    def test_a_command_replaces_the_images_and_its_arguments(self) -> None:
        made = config(replace(SERVICE, command=("serve",)))
        assert (made["Entrypoint"], made["Cmd"]) == (["serve"], [])
        made = config(replace(SERVICE, args=("--x",)))
        assert "Entrypoint" not in made
        assert made["Cmd"] == ["--x"]
        made = config()
        assert "Entrypoint" not in made
        assert "Cmd" not in made

    def test_a_mock_is_the_argument_of_the_server_of_mocks(self) -> None:
        mock = ServiceSpec(kind="mock", name="a.b.Mock", image=IMAGE, args=("--fast",))
        assert config(mock)["Cmd"] == ["a.b.Mock", "--fast"]

    @pytest.mark.parametrize(
        ("own", "allow", "user"),
        [
            ("", False, "65532:65532"),
            ("0", False, "65532:65532"),
            ("root:root", False, "65532:65532"),
            # The engine reads numbers generously.
            ("00", False, "65532:65532"),
            ("+0:7", False, "65532:65532"),
            ("app", False, "app"),
            ("1000:1000", False, "1000:1000"),
            ("", True, ""),
        ],
    )
    def test_root_only_where_it_is_allowed(self, own: str, allow: bool, user: str) -> None:
        made = config(image={"Config": {"User": own}}, settings={"allow_root": allow})
        assert made["User"] == user

    def test_nobody_sees_gpus_but_its_own(self) -> None:
        service = replace(SERVICE, env=(("NVIDIA_VISIBLE_DEVICES", "all"),))
        assert "NVIDIA_VISIBLE_DEVICES=void" in config(service)["Env"]
        # The engine names those that are asked for.
        made = config(service, gpus=("1",))
        assert not any(line.startswith("NVIDIA_VISIBLE_DEVICES") for line in made["Env"])
        assert made["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == ["1"]

    def test_the_environment_is_the_services_and_then_ours(self) -> None:
        service = replace(SERVICE, env=(("A", "1"), ("PORT", "80"), ("PODBAY_SESSION_ID", "no")))
        image = {"Config": {"Env": ["HOME=/app", "PYTHONUNBUFFERED="]}}
        made = dict(line.split("=", 1) for line in config(service, image)["Env"])
        assert made == {
            "A": "1",
            "PORT": "80",
            "PODBAY_REPLICA_HOST": "0.0.0.0",
            "PODBAY_SESSION_ID": "s1",
            "PODBAY_REPLICA_ID": "r1",
            "NVIDIA_VISIBLE_DEVICES": "void",
        }

    def test_limits(self) -> None:
        host = config(replace(SERVICE, cpus=1.5, memory_bytes=1 << 30))["HostConfig"]
        assert (host["Memory"], host["MemorySwap"]) == (1 << 30, 1 << 30)
        assert (host["CpuQuota"], host["CpuPeriod"]) == (150_000, 100_000)
        host = config()["HostConfig"]
        assert host["Memory"] == SETTINGS.default_memory_bytes
        assert "CpuQuota" not in host
        # The engine takes no less.
        assert config(replace(SERVICE, cpus=0.001))["HostConfig"]["CpuQuota"] == 1_000

    def test_ports_are_published_at_the_nodes_address_only(self) -> None:
        assert "PortBindings" not in config()["HostConfig"]
        bound = config(address="10.0.0.7")["HostConfig"]["PortBindings"]
        assert bound == {"8000/tcp": [{"HostIp": "10.0.0.7", "HostPort": ""}]}

    def test_gpus_are_asked_for_by_id(self) -> None:
        assert "DeviceRequests" not in config()["HostConfig"]
        (asked,) = config(gpus=("1", "GPU-x"))["HostConfig"]["DeviceRequests"]
        assert asked["DeviceIDs"] == ["1", "GPU-x"]

    def test_mounts(self) -> None:
        mounts = (
            MountedFolder("/scratch", memory_bytes=7),
            MountedFolder("/data", source="/models/1", read_only=True),
            MountedFolder("/copy", source="v", volume=True, read_only=True),
        )
        host = config(mounts=mounts)["HostConfig"]
        assert host["Tmpfs"]["/scratch"].endswith("size=7")
        kinds = [(m["Type"], m["Source"], m["Target"], m["ReadOnly"]) for m in host["Mounts"]]
        assert kinds == [("bind", "/models/1", "/data", True), ("volume", "v", "/copy", True)]

    def test_folders_that_an_image_declares_as_volumes(self) -> None:
        image = {"Config": {"Volumes": {"/cache/": {}, "/data": {}, "/tmp": {}, "/a": {}}}}
        assert declared_folders(image, ["/data/"]) == ["/a", "/cache"]
        assert declared_folders({}, []) == []
        # They are as the image has them.
        folder = MountedFolder("/a", source="v", volume=True, read_only=True, filled=True)
        (mount,) = config(mounts=(folder,))["HostConfig"]["Mounts"]
        assert (mount["ReadOnly"], mount["VolumeOptions"]) == (True, {"NoCopy": False})


@pytest.mark.parametrize(
    ("service", "settings", "word"),
    [
        (replace(SERVICE, image=""), {}, "container"),
        (replace(SERVICE, image="host/name:latest"), {}, "digest"),
        (replace(SERVICE, egress=True), {}, "operator"),
        (replace(SERVICE, env=(("PORT", "99999"),)), {}, "PORT"),
        (replace(SERVICE, mounts=(DataMount("m", "/d", "Model", "1"),)), {}, "files"),
        (replace(SERVICE, egress=True), {"allow_egress": True}, None),
        (SERVICE, {}, None),
    ],
)
def test_what_is_supported(service: ServiceSpec, settings: Any, word: str | None) -> None:
    said = supports_image(service, replace(SETTINGS, **settings))
    assert said is None if word is None else said is not None and word in said


@pytest.mark.parametrize(
    ("text", "known", "reason"),
    [
        ("manifest for a/b@sha256:0 not found: manifest unknown", True, "IMAGE_DIGEST_NOT_FOUND"),
        ("manifest for a/b@sha256:0 not found: manifest unknown", None, "IMAGE_DIGEST_NOT_FOUND"),
        ("manifest for a/b@sha256:0 not found: manifest unknown", False, "IMAGE_NOT_FOUND"),
        ("repository a/b not found: name unknown: repository name not known", None,
         "IMAGE_NOT_FOUND"),
        ('Get "http://h/v2/": dial tcp 1.2.3.4:5: connect: connection refused', None,
         "REGISTRY_UNREACHABLE"),
        ("Get https://h/v2/: dial tcp: lookup h: no such host", None, "REGISTRY_UNREACHABLE"),
        ("Get https://h/v2/: http: server gave HTTP response to HTTPS client", None,
         "REGISTRY_UNREACHABLE"),
        ("pull access denied for a/b, repository does not exist or may require 'docker login'",
         None, "IMAGE_PULL_DENIED"),
        ("unauthorized: authentication required", None, "IMAGE_PULL_DENIED"),
        ("write /var/lib/docker/tmp/x: no space left on device", None, "DISK_FULL"),
        ("something else", None, "START_FAILED"),
    ],
)  # fmt: skip
def test_reasons_of_pulls(text: str, known: bool | None, reason: str) -> None:
    failure = pull_failure(IMAGE, EngineError(500, text), name_known=known)
    assert failure.reason == reason


@pytest.mark.parametrize(
    ("text", "gpus", "reason"),
    [
        ('exec: "x": executable file not found in $PATH: unknown', (), "COMMAND_NOT_FOUND"),
        ('exec: "/x": stat /x: no such file or directory', (), "COMMAND_NOT_FOUND"),
        ('exec: "/x": permission denied: unknown', (), "COMMAND_NOT_EXECUTABLE"),
        ("exec /x: exec format error", (), "COMMAND_NOT_EXECUTABLE"),
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', ("0",),
         "GPU_UNAVAILABLE"),
        ("nvidia-container-cli: device error: 9: unknown device: unknown", ("9",),
         "GPU_UNAVAILABLE"),
        ("mkdir /var/lib/docker/overlay2/x: no space left on device", (), "DISK_FULL"),
        ("Bind for 127.0.0.1:8000 failed: port is already allocated", (), "PORT_TAKEN"),
        ("Error starting userland proxy: listen 10.9.9.9:1: cannot assign requested address",
         (), "START_FAILED"),
        ("No command specified", (), "COMMAND_NOT_FOUND"),
        ("unable to find user app: no matching entries in passwd file", (), "START_FAILED"),
        ("Cannot mkdir: /opt/x.py is not a directory", (), "WORKING_DIRECTORY_NOT_FOUND"),
        ("Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", (),
         "START_FAILED"),
        ("invalid mount config for type bind: mount path: no such file or directory", (),
         "DATA_UNAVAILABLE"),
    ],
)  # fmt: skip
def test_reasons_of_starts(text: str, gpus: tuple[str, ...], reason: str) -> None:
    spec = LaunchSpec("r", "s", replace(SERVICE, command=("x",)), Serving(), gpus=gpus)
    failure = start_failure(spec, EngineError(400, text))
    assert failure.reason == reason
    assert failure.message.endswith(".")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, Reason.OUT_OF_MEMORY),
        ({"Status": "exited", "ExitCode": 137}, Reason.NONE),
        # A child was killed for it, and the replica ended as it should.
        ({"Status": "exited", "ExitCode": 0, "OOMKilled": True}, Reason.NONE),
        ({"Status": "created", "ExitCode": 0}, Reason.START_FAILED),
        ({"Status": "exited", "ExitCode": 128, "Error": "no space left on device"},
         Reason.DISK_FULL),
    ],
)  # fmt: skip
def test_reasons_of_ends(state: dict[str, Any], reason: Reason) -> None:
    assert end_reason({"State": state}, mock=False)[0] is reason


def test_where_a_replica_is() -> None:
    details = {
        "State": {"Status": "running", "Pid": 42},
        "Config": {
            "Labels": {"dev.podbay.replica": "r1", "dev.podbay.session": "s1"},
            "Env": ["PORT=9000"],
        },
        "NetworkSettings": {
            "Networks": {"net-s1": {"IPAddress": "172.20.0.2"}},
            "Ports": {"9000/tcp": [{"HostIp": "10.0.0.7", "HostPort": "32768"}]},
        },
    }
    inside = observed(details, NODE)
    assert (inside.host, inside.port, inside.pid) == ("172.20.0.2", 9000, 42)
    published = observed(details, replace(NODE, address="10.0.0.7"))
    assert (published.host, published.port) == ("10.0.0.7", 32768)


def test_log_messages() -> None:
    message = b"2026-01-31T01:02:03.123456789Z hello\n"
    assert split_message(message) == (1769821323_123456789, b"hello\n")
    assert split_message(b"nonsense") is None
    assert split_message(b"2026-01-31 01:02 x") is None


def test_gpus_of_nvidia_smi() -> None:
    seen = parse_gpus("0, GPU-a, Tesla T4, 15109\nFailed\n1, GPU-b, H100, 81559\n")
    assert [gpu.uuid for gpu in seen] == ["GPU-a", "GPU-b"]
    look = compare_gpus([DeclaredGpu("GPU-b", "h100"), DeclaredGpu("7", "t4")], seen)
    assert look.failed == ("7",)
    assert any("GPU-a" in w and "not declared" in w for w in look.warnings)
    # By its index and by its UUID it is one GPU, which nobody gets twice.
    look = compare_gpus([DeclaredGpu("0", "t4"), DeclaredGpu("GPU-a", "t4")], seen[:1])
    assert look.failed == ("GPU-a",)
    assert look.warnings == ("the GPU GPU-a is the GPU 0, declared once more",)


def test_what_a_node_lacks() -> None:
    info = {"NCPU": 4, "MemTotal": 8 << 30, "MemoryLimit": False, "LiveRestoreEnabled": False}
    node = replace(NODE, cpus=8, memory_bytes=16 << 30)
    warnings, cpus, memory = compare(node, info, has_probe=False)
    assert (cpus, memory) == (4, 8 << 30)
    text = "\n".join(warnings)
    for word in ("8 CPUs", "16384 MiB", "memory limits", "live-restore"):
        assert word in text
    warnings, cpus, memory = compare(replace(NODE, cpus=2, memory_bytes=1 << 30), {
        "NCPU": 4, "MemTotal": 8 << 30, "LiveRestoreEnabled": True}, has_probe=False)  # fmt: skip
    assert (warnings, cpus, memory) == ([], 2, 1 << 30)


@pytest.mark.parametrize(
    ("engine", "tls", "word"),
    [
        ("unix:///run/docker.sock", False, None),
        ("tcp://127.0.0.1:2375", False, None),
        ("tcp://node.example:2376", True, None),
        ("tcp://node.example:2376", False, "TLS"),
        ("tcp://node.example", True, "no address"),
        ("ssh://podbay@node.example", False, None),
        ("ssh://-oProxyCommand=x/", False, "no address"),
        ("ftp://node.example:1", True, "no address"),
        ("unix://", False, "no address"),
    ],
)
def test_addresses_of_engines(engine: str, tls: bool, word: str | None) -> None:
    node = replace(NODE, engine=engine, tls=EngineTls("a", "b", "c") if tls else None)
    if word is None:
        check_engine(node)
        return
    with pytest.raises(SettingsError, match=word):
        check_engine(node)


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(SettingsError, match=r"pip install 'podbay\[docker\]'"):
        make_docker_driver(NODE, SETTINGS)


def test_an_archive_holds_what_is_below_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / ("d" * 120)).mkdir(parents=True)
    (folder / ("d" * 120) / "file").write_bytes(b"x" * 1000)
    (folder / "run").write_text("#!")
    (folder / "run").chmod(0o700)
    (folder / "out").symlink_to("/etc")
    (folder / "in").symlink_to("run")
    told: list[int] = []
    data = b"".join(tar_of(folder, told.append))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        modes = {entry.name: oct(entry.mode) for entry in tar.getmembers()}
        inner = tar.extractfile("d" * 120 + "/file")
        assert inner is not None
        assert inner.read() == b"x" * 1000
    assert modes == {
        "d" * 120: "0o755",
        "d" * 120 + "/file": "0o444",
        "in": "0o555",
        "run": "0o555",
    }
    assert told[-1] == 1000 + 2 + 2


def test_a_file_that_shrinks_is_not_padded(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * (3 << 20))
    pieces = tar_of(tmp_path, lambda _: None)
    next(pieces)
    next(pieces)
    path.write_bytes(b"")
    with pytest.raises(FilesUnreadableError):
        list(pieces)


def test_a_file_of_tls_that_is_not_there_is_named(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_text("")
    tls = EngineTls(str(ca), str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    client = EngineClient("tcp://192.0.2.1:2376", tls, 1)
    with pytest.raises(DriverUnreachableError, match=r"tls\.crt cannot be read \(No such file"):
        client.ping()
    client.close()


async def test_ports_are_published_at_one_address() -> None:
    assert await published_at("n1", "") == ""
    assert await published_at("n1", "10.0.0.7") == "10.0.0.7"
    assert await published_at("n1", "fd00::7") == "fd00::7"
    # What is a name the engine would take for all addresses.
    assert await published_at("n1", "localhost") == "127.0.0.1"
    with pytest.raises(StartFailedError, match=r"'n\.invalid' of node n1 is a name, and no IP"):
        await published_at("n1", "n.invalid")
    for everywhere in ("0.0.0.0", "::"):
        with pytest.raises(StartFailedError, match="published at all addresses"):
            await published_at("n1", everywhere)


def test_an_engine_is_known_by_its_id_its_machine_and_its_folder() -> None:
    info = {"ID": "A:B", "Name": "m1", "DockerRootDir": "/d1"}
    assert identity(info) == identity(dict(info)) == "A:B m1 /d1"
    # Machines that were copied from one another may have one id, and engines of one machine.
    assert (
        len({identity(info | more) for more in ({}, {"Name": "m2"}, {"DockerRootDir": "/d2"})}) == 3
    )
    assert identity({}) == ""
