"""What a service and a session come to: what is honoured, what is refused, and by which name."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from podbay.schema import platform, requests
from podbay.schema.serving import ServingOptions, default_readiness_path
from podbay_kit.errors import ServiceError
from podbay_kit.process import SettingsError
from podbay_session_manager.admission import Admission, AdmissionRules, admit, build_session
from podbay_session_manager.operator_files import read_nodes, read_runner_kinds
from podbay_session_manager.records import DataMount, Needs, ScratchMount, ServiceSpec
from podbay_session_manager.runner_kinds import DEFAULT_KINDS, KindsFile, with_changes

NOW = datetime(2030, 1, 1, tzinfo=UTC)
T4, A100 = "nvidia.com/gpu-t4", "nvidia.com/gpu-a100"
IMAGE = {"host": "h.example:5000", "name": "a/b", "digest": f"sha256:{'0' * 64}"}
PULLED = f"h.example:5000/a/b@sha256:{'0' * 64}"
MODEL = {
    "id": "m1",
    "account": "acme",
    "name": "opt-125m",
    "artifact": {"kind": "Volume", "volume": {"files": []}},
}


class Driver:
    def __init__(self, kind: str, refusal: str | None = None) -> None:
        self.kind = kind
        self._refusal = refusal

    def supports(self, service: ServiceSpec) -> str | None:
        if self._refusal is not None:
            return self._refusal
        mine = bool(service.image) == (self.kind == "docker")
        return None if mine else "it does not run it"


DRIVERS = (Driver("process"), Driver("docker"))


def service(
    kind: str = "container",
    *,
    model: dict[str, Any] | None = None,
    serving: ServingOptions | None = None,
    endpoint: str = "infer",
    **runner: Any,
) -> platform.InferenceService:
    if kind == "container":
        runner.setdefault("image", IMAGE)
    return platform.InferenceService.model_validate(
        {
            "id": uuid.uuid4().hex,
            "account": "acme",
            "status": "Ready",
            "creationTime": NOW,
            "name": "n",
            "model": model,
            "interface": {"endpoint": endpoint, "outputSchema": {"arrowSchema": ""}},
            "runner": {"kind": kind, "resources": {}, **runner},
            "annotations": [a.model_dump() for a in (serving or ServingOptions()).to_annotations()],
        }
    )


def gpu(count: int = 1, *types: str, **more: Any) -> dict[str, Any]:
    return {"kind": "GPU", "gpu": {"hardwareTypes": types or (T4,), "count": count, **more}}


def scratch(path: str, name: str = "s") -> dict[str, Any]:
    capacity = {"capacity": "1Mi"}
    return {"kind": "Scratch", "name": name, "mountPath": path, "scratch": capacity}


def variable(name: str, value: str = "") -> dict[str, str]:
    return {"name": name, "value": value}


OPERATORS = f"mirror.example/vllm@sha256:{'1' * 64}"
KINDS = {**DEFAULT_KINDS, "vllm": replace(DEFAULT_KINDS["vllm"], image=OPERATORS)}


def decide(
    of: platform.InferenceService, *, allow_egress: bool = False, **session: Any
) -> Admission:
    request = requests.InferenceSessionCreateRequest.model_validate(
        {"account": "acme", "inferenceService": of.id, **session}
    )
    rules = AdmissionRules(DRIVERS, KINDS, allow_egress)
    return admit(request, of, rules, NOW)


def refusal(of: platform.InferenceService, **session: Any) -> str:
    with pytest.raises(ServiceError) as failure:
        decide(of, **session)
    return failure.value.message


def test_a_container_is_run_as_its_runner_says() -> None:
    admission = decide(
        service(
            command=["serve"],
            args=["--x", "{not ours}"],
            env=[{"name": "A", "value": "1"}],
            workingDir="/srv",
            resources={"cpu": "1500m", "memory": "2Gi"},
            volumeMounts=[
                {
                    "kind": "Data",
                    "name": "weights",
                    "mountPath": "/w",
                    "data": {"source": {"kind": "Model", "id": "m"}},
                },
                {
                    "kind": "Scratch",
                    "name": "tmp",
                    "mountPath": "/t",
                    "scratch": {"capacity": "1Gi"},
                },
            ],
        )
    )
    assert admission.driver == "docker"
    assert admission.service == ServiceSpec(
        kind="container",
        name="n",
        image=PULLED,
        command=("serve",),
        args=("--x", "{not ours}"),
        env=(("A", "1"),),
        working_dir="/srv",
        cpus=1.5,
        memory_bytes=2 << 30,
        mounts=(DataMount("weights", "/w", "Model", "m"), ScratchMount("tmp", "/t", 1 << 30)),
    )
    assert admission.needs == Needs(cpus=1.5, memory_bytes=2 << 30)
    assert admission.serving.readiness_path == "/ready"


def test_a_model_server_gets_image_command_and_endpoint_of_its_kind() -> None:
    admission = decide(
        service(
            "vllm",
            model=MODEL,
            endpoint="",
            args=["--max-model-len", "1024"],
            env=[{"name": "HF_HUB_OFFLINE", "value": "0"}, {"name": "PORT", "value": "9000"}],
        )
    )
    spec = admission.service
    assert spec.image == OPERATORS
    assert spec.command == (
        *("vllm", "serve", "/podbay/model", "--host", "0.0.0.0", "--port", "9000"),
        *("--served-model-name", "opt-125m"),
    )
    assert spec.args == ("--max-model-len", "1024")
    assert dict(spec.env) == {"HF_HUB_OFFLINE": "0", "VLLM_NO_USAGE_STATS": "1", "PORT": "9000"}
    assert spec.mounts == (DataMount("model", "/podbay/model", "Model", "m1"),)
    assert admission.serving.readiness_path == "/health"
    assert admission.serving.start_timeout == 900
    assert admission.endpoint == "v1/completions"


def test_what_the_service_says_wins_over_its_kind() -> None:
    mine = {
        "kind": "Data",
        "name": "m",
        "mountPath": "/podbay/model",
        "data": {"source": {"kind": "Model", "id": "other"}},
    }
    serving = ServingOptions(readiness_path="/up", start_timeout=5.0)
    of = service(
        "vllm", model=MODEL, image=IMAGE, command=["mine"], serving=serving, volumeMounts=[mine]
    )
    admission = decide(of)
    assert admission.service.image == PULLED
    assert admission.service.command == ("mine",)
    assert admission.service.mounts == (DataMount("m", "/podbay/model", "Model", "other"),)
    assert admission.serving.readiness_path == "/up"
    assert admission.serving.start_timeout == 5
    assert admission.endpoint == "infer"


def test_a_model_of_the_hub_lies_in_its_snapshot() -> None:
    cached = {
        **MODEL,
        "artifact": {
            "kind": "HuggingFaceCache",
            "huggingFaceCache": {"repoID": "facebook/opt-125m", "revision": "abc"},
        },
    }
    command = decide(service("huggingface", model=cached, image=IMAGE)).service.command
    assert "/podbay/model/models--facebook--opt-125m/snapshots/abc" in command


def test_the_sessions_accelerator_wins_as_a_whole() -> None:
    of = service(accelerator=gpu(4, A100, memory="80G"), resources={"memory": "8Gi"})
    assert decide(of).needs == Needs(4, (A100,), 80_000_000_000, 0.0, 8 << 30)
    assert decide(of, accelerator=gpu(1, T4, A100, T4), useSpotPods=False).needs == Needs(
        1, (T4, A100), 0, 0.0, 8 << 30, spot=False
    )


@pytest.mark.parametrize(
    ("of", "session", "words"),
    [
        (service(image=None), {}, "runner.image is missing"),
        (service("vllm"), {}, "needs a model"),
        (
            service("huggingface", model=MODEL),
            {},
            "podbay up --runner-kinds FILE, with [kinds.huggingface] and image =",
        ),
        (service("bentoml_service_openllm", model=MODEL), {}, "runner.image is missing"),
        (
            service(image=None, imageRef={"kind": "OCIArtifact", "id": "i"}),
            {},
            "runner.imageRef",
        ),
        (service(nodes=2), {}, "runner.nodes is 2"),
        (service(resources={"storage": "1Gi"}), {}, "runner.resources.storage"),
        (service(resources={"memory": "1m"}), {}, "runner.resources.memory is not a whole number"),
        (service(resources={"memory": "1e1.5"}), {}, "runner.resources.memory is not a quantity"),
        (service(resources={"cpu": "1E"}), {}, "runner.resources.cpu is more than"),
        (service(accelerator={"kind": "TPU"}), {}, "runner.accelerator is of the kind 'TPU'"),
        (service(), {"accelerator": {"kind": "GPU"}}, "only GPU is known, with gpu"),
        (service(), {"accelerator": gpu(0)}, "accelerator.gpu.count"),
        (service(), {"accelerator": gpu(1, memory=".5")}, "accelerator.gpu.memory"),
        (
            service(
                volumeMounts=[
                    {
                        "kind": "Data",
                        "name": "d",
                        "mountPath": "/d",
                        "data": {"source": {"kind": "Dataset", "id": "i"}},
                    }
                ]
            ),
            {},
            "'Dataset'",
        ),
        (
            service(
                volumeMounts=[
                    {"kind": "Scratch", "name": "s", "mountPath": p, "scratch": {"capacity": "1"}}
                    for p in ("/s", "/s/")
                ]
            ),
            {},
            "runner.volumeMounts.1.mountPath comes twice",
        ),
        (
            service(
                volumeMounts=[
                    {"kind": "Scratch", "name": "s", "mountPath": "s", "scratch": {"capacity": "1"}}
                ]
            ),
            {},
            "runner.volumeMounts.0.mountPath is not the whole path",
        ),
        (service(volumeMounts=[scratch("//")]), {}, "0.mountPath is not the whole path"),
        (service(volumeMounts=[scratch("/a\0b")]), {}, "0.mountPath is not the whole path"),
        (service(volumeMounts=[scratch("/proc/x")]), {}, "0.mountPath is in /proc"),
        (
            service(volumeMounts=[scratch("/x"), scratch("//x", "t")]),
            {},
            "runner.volumeMounts.1.mountPath comes twice",
        ),
        (
            service(volumeMounts=[scratch("/x"), scratch("/y")]),
            {},
            "runner.volumeMounts.1.name comes twice",
        ),
        (service(resources={"memory": "4Mi"}), {}, "no container runs in less than 6 MiB"),
        (service(command=["", "x"]), {}, "runner.command.0 is empty"),
        (service(command=["x", "a\0"]), {}, "runner.command.1 holds a NUL character"),
        (service(args=["a\0"]), {}, "runner.args.0 holds a NUL character"),
        (service(workingDir="srv"), {}, "runner.workingDir is not the whole path"),
        (service(env=[variable("")]), {}, "runner.env.0.name is not the name of a variable"),
        (service(env=[variable("A=B")]), {}, "runner.env.0.name is not the name of a variable"),
        (service(env=[variable("A", "\0")]), {}, "runner.env.0.value holds a NUL character"),
        (service(env=[variable("A"), variable("A")]), {}, "runner.env.1.name is 'A', which is set"),
        (
            service(env=[variable("NVIDIA_VISIBLE_DEVICES", "all")]),
            {},
            "not the service's to set: it says which GPUs",
        ),
        (service(env=[variable("PODBAY_SESSION_ID")]), {}, "not the service's to set"),
        (service(serving=ServingOptions(egress=True)), {}, "--allow-egress"),
        (service("mock", serving=ServingOptions(egress=True)), {}, "egress"),
        (service("mock"), {"accelerator": gpu()}, "accelerator"),
        (service("mock", resources={"cpu": "1"}), {}, "runner.resources.cpu"),
        (service("mock", env=[{"name": "PORT", "value": "1"}]), {"replicas": 2}, "PORT=1"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    of: platform.InferenceService, session: dict[str, Any], words: str
) -> None:
    assert words in refusal(of, **session)


def test_egress_is_the_operators_to_allow() -> None:
    of = service(serving=ServingOptions(egress=True))
    assert decide(of, allow_egress=True).service.egress
    assert not decide(service(), allow_egress=True).service.egress


def test_a_fixed_port_is_no_limit_in_containers() -> None:
    of = service(env=[{"name": "PORT", "value": "9000"}])
    assert decide(of, replicas=3).service.fixed_port == 9000


def test_each_driver_says_why_it_cannot() -> None:
    of = service()
    rules = AdmissionRules((Driver("process", "it runs no images"),), DEFAULT_KINDS, False, True)
    request = requests.InferenceSessionCreateRequest(account="acme", inferenceService=of.id)
    with pytest.raises(ServiceError) as failure:
        admit(request, of, rules, NOW)
    assert "process: it runs no images; docker: no node is declared" in failure.value.message


def test_a_session_shows_the_endpoint_that_it_has() -> None:
    of = service("vllm", model=MODEL, endpoint="")
    request = requests.InferenceSessionCreateRequest(account="acme", inferenceService=of.id)
    entity, record = build_session(request, of, decide(of), NOW)
    assert entity.inferenceService.interface.endpoint == "v1/completions"
    assert record.needs == Needs()


@pytest.mark.parametrize("kind", sorted(DEFAULT_KINDS))
def test_readiness_paths_are_those_that_clients_are_told(kind: str) -> None:
    assert DEFAULT_KINDS[kind].readiness_path == default_readiness_path(kind)
    assert kind in set(platform.InferenceServiceRunnerKind)


def test_an_operator_changes_kinds_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "kinds.toml"
    file.write_text(
        "[kinds.vllm]\n"
        f'image = "{OPERATORS}"\n'
        'command = ["run", "{model_path}", "{{literal}}"]\n'
        'env = {A = "{port}"}\n'
    )
    kinds = read_runner_kinds(file)
    assert kinds["vllm"].image == OPERATORS
    assert kinds["vllm"].env == (("A", "{port}"),)
    assert kinds["vllm"].readiness_path == "/health"
    assert kinds["container"] == DEFAULT_KINDS["container"]
    of = service("vllm", model=MODEL)
    request = requests.InferenceSessionCreateRequest(account="acme", inferenceService=of.id)
    spec = admit(request, of, AdmissionRules(DRIVERS, kinds), NOW).service
    assert spec.command == ("run", "/podbay/model", "{literal}")
    assert spec.env == (("A", "8000"),)
    assert with_changes(KindsFile()) == DEFAULT_KINDS
    assert read_runner_kinds(None) == DEFAULT_KINDS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[kinds.mock]\n", "not 'mock'"),
        (
            '[kinds.vllm]\nimage = "h.example/vllm:latest"\n',
            "kinds.vllm.image: name an image by its",
        ),
        ('[kinds.vllm]\ncolour = "red"\n', "kinds.vllm.colour"),
        ('[kinds.vllm]\ncommand = ["{port.real}"]\n', "not {port.real}"),
        ('[kinds.vllm]\ncommand = ["{"]\n', "brace"),
        ('[kinds.vllm]\ncommand = ["{port:d}"]\n', "takes {port} as it is"),
        ('[kinds.vllm.env]\nA = "{port!x}"\n', "takes {port} as it is"),
        ("[kinds.vllm\n", "is not TOML"),
    ],
)
def test_a_file_of_kinds_is_refused_with_its_field(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "kinds.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=".") as failure:
        read_runner_kinds(file)
    assert words in str(failure.value)


def test_nodes_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "nodes.toml"
    file.write_text(
        '[[nodes]]\nname = "n1"\nengine = "tcp://n1:2376"\naddress = "n1"\n'
        "cpu = 16\nmemory = '64Gi'\nspot = true\n"
        '[nodes.tls]\nca = "/ca"\ncert = "/cert"\nkey = "/key"\n'
        '[nodes.labels]\nzone = "a"\n'
        f'[[nodes.gpus]]\nid = 0\nhardware_type = "{T4}"\nmemory = "16Gi"\n'
    )
    (node,) = read_nodes(file)
    assert (node.name, node.cpus, node.memory_bytes, node.spot) == ("n1", 16, 64 << 30, True)
    assert node.tls is not None
    assert [(g.id, g.hardware_type, g.memory_bytes) for g in node.gpus] == [("0", T4, 16 << 30)]
    assert node.labels == {"zone": "a"}
    file.write_text('name = "n2"\nengine = "unix:///run/docker.sock"\n')
    assert [one.name for one in read_nodes(file)] == ["n2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[nodes]]\nname = "N"\nengine = "unix:///e"\n', "nodes.0.name"),
        ('[[nodes]]\nname = "n"\nengine = "http://e"\n', "must begin with unix://"),
        ('[[nodes]]\nname = "n"\nengine = "tcp://far:1"\n', "tls is required"),
        ('[[nodes]]\nname = "n"\nengine = "ssh://u:secret@h"\n', "without a password"),
        ('[[nodes]]\nname = "n"\nengine = "unix:///e"\ncpu = 0\n', "nodes.0.cpu"),
        ('[[nodes]]\nname = "n"\nengine = "unix:///e"\nmemory = "1m"\n', "nodes.0.memory"),
        ('[[nodes]]\nname = "n"\nengine = "unix:///e"\ncolour = 1\n', "nodes.0.colour"),
        (
            (
                '[[nodes]]\nname = "n"\nengine = "unix:///e"\n'
                '[[nodes.gpus]]\nid = "0"\nhardwareType = "x"\n'
                '[[nodes.gpus]]\nid = "0"\nhardwareType = "y"\n'
            ),
            "gpus.1.id",
        ),
        (
            '[[nodes]]\nname = "n"\nengine = "unix:///e"\n[[nodes]]\nname = "n"\nengine = "unix:///e"\n',
            "file: nodes.1.name: the same node comes before",
        ),
        (
            '[[nodes]]\nname = "n"\nengine = "unix:///e"\n[[nodes]]\nname = "m"\nengine = "unix:///e"\n',
            "nodes.1.engine: is that of node 'n'",
        ),
        (
            'name = "n"\nengine = "unix:///e"\nmemory = "16GB"\n',
            "nodes.0.memory: is not a quantity",
        ),
        ('name = "n"\nengine = "tcp://127.0.0.1:1/x"\n', "nodes.0.engine: has a path"),
        ('name = "n"\nengine = "tcp://127.0.0.1:1?x=1"\n', "nodes.0.engine: is not an address"),
        ('name = "n"\nengine = "unix:///a b"\n', "nodes.0.engine: is not an address"),
        ('name = "n"\nengine = "unix:///e"\nmemory = 64\n', "nodes.0.memory: is 64 bytes, less"),
        ('name = "n"\nengine = "unix:///e"\naddress = "h:80"\n', "nodes.0.address: write an IP"),
        (
            'name = "n"\nengine = "unix:///e"\naddress = "http://h"\n',
            "nodes.0.address: write an IP",
        ),
        ('name = "n"\nengine = "unix:///e"\naddress = "0.0.0.0"\n', "is no machine's own"),
    ],
)
def test_a_file_of_nodes_is_refused_with_its_field(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "nodes.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=".") as failure:
        read_nodes(file)
    assert words in str(failure.value)
    assert "secret" not in str(failure.value)
