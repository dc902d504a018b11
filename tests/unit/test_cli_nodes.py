"""`podbay node` and where sessions go, over a fake client."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from podbay.cli import detached
from podbay.cli.session_placement import placement_lines
from podbay.local.plan import UpSettings, container_flags, plan_services
from podbay.local.state import DataDir
from podbay.schema.platform import InferenceSessionAndToken
from podbay.types import (
    NodeGpu,
    NodeInfo,
    NodesChange,
    NodeVerdict,
    Placement,
    PlacementNeeds,
)
from tests.support.cli_fake_client import SESSION_ID, FakeClient, make_replica, make_session
from tests.support.cli_fake_client import make_status as status_of
from tests.unit.test_cli_commands import Run, client, run

__all__ = ["client", "run"]

T4 = "nvidia.com/gpu-t4"
NODE = NodeInfo(
    "n1",
    "docker/n1",
    "Ready",
    "",
    "10.0.0.1",
    1,
    8,
    64 << 30,
    gpus=(
        NodeGpu("0", T4, 16 << 30, "r" * 32, SESSION_ID, ""),
        NodeGpu("1", T4, 16 << 30, None, None, ""),
        NodeGpu("2", T4, 16 << 30, None, None, "it fell off the bus"),
    ),
    spot=True,
    labels={"rack": "r1", "zone": "a"},
    engine="unix:///run/docker.sock",
    free_cpus=6.5,
    free_memory_bytes=32 << 30,
    differences=("it has 2 GPUs, 3 are declared",),
)
PLACEMENT = Placement(
    needs=PlacementNeeds("docker", 2, (T4,), 0, 1.0, 0, True),
    desired=3,
    placed=1,
    fitting=0,
    waiting_before=4,
    reason="INSUFFICIENT_CAPACITY",
    summary=f"2 replicas of 3 would wait. It needs 2 GPUs {T4}, and no node has room: n1: x",
    nodes=(NodeVerdict("n1", False, ("1 of 2 such GPUs free, 2 needed",)),),
)


def test_the_list_says_what_is_free(run: Run, client: FakeClient):
    client.nodes.answers["list"] = [NODE]
    text = run("node", "list").stdout
    assert f"1/3 {T4}" in text
    assert "6.5/8" in text
    assert "32.0/64.0 GiB" in text
    assert "Ready (spot)" in text
    assert "3 are declared" in text


def test_one_node_is_shown_with_its_gpus(run: Run, client: FakeClient):
    client.nodes.answers["get"] = NODE
    text = run("node", "get", "n1").stdout
    assert "it fell off the bus" in text
    assert "engine  unix:///run/docker.sock" in text
    assert "labels  rack=r1, zone=a" in text
    assert SESSION_ID in text
    assert json.loads(run("node", "get", "n1", "--json").stdout)["gpus"][0]["id"] == "0"


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "drain", "undrain"])
def test_what_is_done_to_a_node(run: Run, client: FakeClient, verb: str):
    client.nodes.answers[verb] = NODE
    assert run("node", verb, "n1").exit_code == 0
    assert client.calls == [(f"nodes.{verb}", ("n1",), {})]


def test_a_drain_can_be_waited_for(run: Run, client: FakeClient):
    client.nodes.answers["drain"] = NODE
    busy = replace(NODE, state="Draining", message="It is emptied, and 3 replicas are left.")
    lost = replace(NODE, state="Unreachable")
    empty = replace(NODE, state="Draining", replicas=0)
    client.nodes.answers["watch"] = lambda: iter(
        [
            NodesChange(True, (busy,), ()),
            NodesChange(
                False,
                (lost,),
                (),
            ),
            NodesChange(False, (empty,), ()),
        ]
    )
    assert json.loads(run("node", "drain", "n1", "--wait", "--json").stdout)["replicas"] == 0
    assert "3 replicas are left" in run("node", "drain", "n1", "--wait").stderr
    # It may be called off by somebody else.
    client.nodes.answers["watch"] = lambda: iter([NodesChange(True, (NODE,), ())])
    stopped = run("node", "drain", "n1", "--wait")
    assert stopped.exit_code == 1
    assert "somebody has called it off" in stopped.stderr


def test_a_withdrawal_is_told(run: Run, client: FakeClient):
    client.nodes.answers["withdraw"] = None
    assert run("node", "withdraw", "n1").stdout == "n1 is withdrawn\n"
    assert json.loads(run("node", "withdraw", "n1", "--lost", "--json").stdout) == {
        "name": "n1",
        "withdrawn": True,
    }


def test_a_watch_shows_what_comes_and_goes(run: Run, client: FakeClient):
    client.nodes.answers["watch"] = lambda: iter(
        [NodesChange(True, (NODE,), ()), NodesChange(False, (), ("n2",))]
    )
    lines = run("node", "watch").stdout.splitlines()
    assert lines[0].startswith("n1  docker/n1  Ready (spot)")
    assert lines[1] == "n2  is gone"


def test_a_file_declares_several_nodes(run: Run, client: FakeClient, tmp_path: Path):
    client.nodes.answers["declare"] = NODE
    file = tmp_path / "nodes.toml"
    file.write_text(
        '[[nodes]]\nname = "n1"\nengine = "unix:///a"\n[[nodes]]\nname = "n2"\nengine = "unix:///b"\n'
    )
    assert run("node", "declare", str(file)).exit_code == 0
    assert [arguments[0].name for _, arguments, _ in client.calls] == ["n1", "n2"]


@pytest.mark.parametrize(
    ("text", "words"), [("x", "is not TOML"), ('[[nodes]]\nname = "n1"\n', "nodes.0.engine")]
)
def test_a_bad_file_is_refused(run: Run, client: FakeClient, tmp_path: Path, text: str, words: str):
    file = tmp_path / "nodes.toml"
    file.write_text(text)
    result = run("node", "declare", str(file))
    assert result.exit_code != 0
    assert words in result.stderr
    assert not client.calls


def test_a_node_is_withdrawn(run: Run, client: FakeClient):
    client.nodes.answers["withdraw"] = None
    assert run("node", "withdraw", "n1", "--lost").exit_code == 0
    assert client.calls == [("nodes.withdraw", ("n1",), {"lost": True})]


def test_a_session_asks_for_gpus(run: Run, client: FakeClient):
    made = InferenceSessionAndToken(inferencesession=make_session(), token="t")
    client.inferencesessions.answers["create"] = made
    options = ("--gpus", "2", "--gpu-type", T4, "--gpu-memory", "16Gi", "--no-spot")
    assert run("session", "create", "5" * 32, *options).exit_code == 0
    (request,) = client.calls[-1][1]
    assert request.accelerator.gpu.count == 2
    assert request.accelerator.gpu.hardwareTypes == [T4]
    assert request.accelerator.gpu.memory == "16Gi"
    assert request.useSpotPods is False
    assert run("session", "create", "5" * 32).exit_code == 0
    (request,) = client.calls[-1][1]
    assert not {"accelerator", "useSpotPods"} & request.model_fields_set
    assert "need a --gpu-type" in run("session", "create", "5" * 32, "--gpus", "1").stderr


def test_a_dry_run_creates_nothing(run: Run, client: FakeClient):
    client.inferencesessions.answers["explain_placement"] = PLACEMENT
    text = run("session", "create", "5" * 32, "--dry-run").stdout
    assert "3 replicas: 1 have a place, 0 find one now, 2 wait (INSUFFICIENT_CAPACITY)" in text
    assert "n1: 1 of 2 such GPUs free, 2 needed" in text
    assert [name for name, _, _ in client.calls] == ["inferencesessions.explain_placement"]
    as_json = json.loads(run("session", "create", "5" * 32, "--dry-run", "--json").stdout)
    assert as_json["nodes"][0]["fits"] is False


def test_explain_looks_at_nodes_where_something_waits(run: Run, client: FakeClient):
    client.inferencesessions.answers["explain_placement"] = PLACEMENT
    waiting = make_replica(phase="Pending", node="", reason="INSUFFICIENT_CAPACITY")
    client.inferencesessions.answers["status"] = status_of(waiting)
    assert "one more replica, node by node:" in run("session", "explain", SESSION_ID).stdout
    as_json = json.loads(run("session", "explain", SESSION_ID, "--json").stdout)
    assert as_json["placement"]["waitingBefore"] == 4
    client.calls.clear()
    client.inferencesessions.answers["status"] = status_of(make_replica(gpus=("0", "1")))
    assert "GPUs 0, 1" in run("session", "explain", SESSION_ID).stdout
    assert [name for name, _, _ in client.calls] == ["inferencesessions.status"]


def test_without_nodes_an_explanation_says_so():
    assert list(placement_lines(replace(PLACEMENT, nodes=())))[-1] == (
        "  there is no node of its kind"
    )


def test_up_hands_the_files_of_the_operator_on(tmp_path: Path):
    settings = UpSettings(
        nodes=Path("n.toml"),
        runner_kinds=Path("k.toml"),
        allow_egress=True,
        node_grace=2.5,
        allow_root_images=True,
        allow_unbounded_scratch=True,
        gpu_probe_image="gpus@sha256:1",
        gpu_probe_interval=90.0,
        model_cache_quota="5Gi",
    )
    _, manager, _ = plan_services(settings, DataDir(tmp_path))
    for name, value in (
        ("--nodes", str(Path("n.toml").absolute())),
        ("--runner-kinds", str(Path("k.toml").absolute())),
        ("--drivers", "process,inprocess,attached,docker"),
        ("--node-grace", "2.500000"),
        ("--gpu-probe-image", "gpus@sha256:1"),
        ("--gpu-probe-interval", "90.000000"),
        ("--model-cache-quota", "5Gi"),
    ):
        assert manager.argv[manager.argv.index(name) + 1] == value
    flags = {"--allow-egress", "--allow-root-images", "--allow-unbounded-scratch"}
    assert flags < set(manager.argv)
    data = DataDir(tmp_path)
    assert set(container_flags(settings)) < set(detached._arguments(data, settings))
    assert "--nodes" not in plan_services(UpSettings(), DataDir(tmp_path))[1].argv
