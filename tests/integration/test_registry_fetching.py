"""Models that come from a hub or from Git: states, causes, layouts, crashes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from podbay.v1 import account_pb2, model_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_registry import fetcher
from podbay_registry.fetcher import FetchOptions
from tests.support.eventually import eventually
from tests.support.hub_server import GitServer, HubServer, make_repository
from tests.support.model_files import download, md5, sha256
from tests.support.registry import Registry, running_registry
from tests.support.registry_process import RegistryProcess
from tests.support.rpc import details_of

BIG = random.Random(4).randbytes(300_000)
FILES = {
    "config.json": b"{}",
    "model.safetensors": BIG,
    "onnx/model.bin": b"onnx" * 100,
    "empty": b"",
}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(files={"owner/name": dict(FILES)}) as server:
        yield server


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(fetcher, "_WATCH_SECONDS", 0.05)


def options(hub: HubServer, **changes: Any) -> FetchOptions:
    return FetchOptions(**{"hub_endpoint": hub.address, "attempts": 2, **changes})


@pytest.fixture
async def registry(tmp_path: Path, hub: HubServer) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path, fetch=options(hub)) as running:
        yield running


async def hub_model(
    registry: Registry,
    repo: str = "owner/name",
    revision: str = "main",
    *,
    artifact: model_pb2.ModelArtifact | None = None,
    **patterns: Any,
) -> model_pb2.Model:
    source = model_pb2.ModelSourceHuggingFaceHub(repo_id=repo, revision=revision, **patterns)
    cache = model_pb2.ModelArtifactHuggingFaceCache(repo_id=repo, revision=revision)
    return await registry.model(
        source=model_pb2.ModelSource(kind="HuggingFaceHub", hugging_face_hub=source),
        artifact=artifact
        or model_pb2.ModelArtifact(kind="HuggingFaceCache", hugging_face_cache=cache),
    )


async def git_model(
    registry: Registry, url: str, artifact: model_pb2.ModelArtifact | None = None
) -> model_pb2.Model:
    source = model_pb2.ModelSourceGitLFS(url=url)
    return await registry.model(
        source=model_pb2.ModelSource(kind="GitLFS", git_lfs=source),
        artifact=artifact or model_pb2.ModelArtifact(kind="Volume", volume=model_pb2.Volume()),
    )


async def get(registry: Registry, model: model_pb2.Model) -> model_pb2.Model:
    answer = await registry.call("GetModel", pb.GetModelRequest(id=model.id))
    found: model_pb2.Model = answer.model
    return found


async def ended(registry: Registry, model: model_pb2.Model) -> model_pb2.Model:
    """Return a model once its fetch has ended."""
    found = [model]

    async def over() -> bool:
        found[0] = await get(registry, model)
        return found[0].status not in ("Created", "Admitted")

    await eventually(over, "the end of the fetch", timeout=60)
    return found[0]


async def tree(registry: Registry, model: model_pb2.Model) -> dict[str, bytes]:
    answer = await registry.call("ListModelFiles", pb.ListModelFilesRequest(id=model.id))
    return {file.path: await download(registry, model.id, file.path) for file in answer.files}


async def log(registry: Registry, model: model_pb2.Model) -> str:
    request = pb.StreamModelLogsRequest(id=model.id)
    stream = registry.stub.StreamModelLogs(request, metadata=registry.metadata())
    return "\n".join([line async for answer in stream for line in answer.lines])


def staging(folder: Path) -> list[str]:
    return os.listdir(folder / "registry/models/fetching")


async def test_a_snapshot_in_the_layout_of_a_cache(registry: Registry, tmp_path: Path) -> None:
    model = await hub_model(registry)
    assert (model.status, model.message) == ("Created", "Waiting to be fetched.")
    done = await ended(registry, model)
    assert (done.status, done.reason, done.message) == ("Ready", "", ""), await log(registry, model)
    prefix = "models--owner--name/snapshots/main/"
    assert await tree(registry, model) == {f"{prefix}{path}": d for path, d in FILES.items()}
    text = await log(registry, model)
    assert "fetching owner/name at main" in text
    assert "fetched 4 files" in text
    await eventually(lambda: staging(tmp_path) == [], "nothing left behind")


async def test_a_volume_with_patterns_and_what_it_declares(registry: Registry) -> None:
    def volume(*files: tuple[str, bytes]) -> model_pb2.ModelArtifact:
        declared = [
            model_pb2.VolumeFile(path=path, size=len(data), digest=model_pb2.Digest(md5=md5(data)))
            for path, data in files
        ]
        return model_pb2.ModelArtifact(kind="Volume", volume=model_pb2.Volume(files=declared))

    good, bad = await asyncio.gather(
        hub_model(
            registry,
            revision="c" * 40,
            artifact=volume(("config.json", b"{}")),
            allow_patterns=["*.json", "onnx/*"],
            ignore_patterns=["*.bin"],
        ),
        hub_model(registry, artifact=volume(("config.json", b"[]"), ("other", b""))),
    )
    assert (await ended(registry, good)).status == "Ready"
    assert await tree(registry, good) == {"config.json": b"{}"}
    failed = await ended(registry, bad)
    assert (failed.status, failed.reason) == ("Error", "FetchFailed")
    assert "'other' is missing" in failed.message
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await download(registry, bad.id, "config.json")
    info, _ = details_of(caught.value)
    assert (info.reason, info.metadata["reason"]) == ("MODEL_NOT_READY", "FetchFailed")


@pytest.mark.parametrize(
    ("repo", "revision", "patterns", "said"),
    [
        ("owner/none", "main", {}, "no repository 'owner/none'"),
        ("owner/name", "no-such", {}, "no revision 'no-such'"),
        ("owner/name", "main", {"allow_patterns": ["*.gguf"]}, "None of the 4 files"),
        ("not a name!", "main", {}, "Check the name"),
    ],
)
async def test_causes(
    registry: Registry, repo: str, revision: str, patterns: Any, said: str
) -> None:
    artifact = model_pb2.ModelArtifact(kind="Volume", volume=model_pb2.Volume())
    model = await hub_model(registry, repo, revision, artifact=artifact, **patterns)
    failed = await ended(registry, model)
    assert (failed.status, failed.reason) == ("Error", "FetchFailed")
    assert said in failed.message
    assert "create the model again" in failed.message
    assert said in await log(registry, model)


async def test_a_hub_that_asks_for_a_token(tmp_path: Path, hub: HubServer) -> None:
    hub.gated = "hf_" + "x" * 34
    async with running_registry(tmp_path, fetch=options(hub)) as registry:
        failed = await ended(registry, await hub_model(registry))
        assert "does not let this registry have owner/name" in failed.message
        assert "--hub-token-file" in failed.message
    token = tmp_path / "hub-token"
    token.write_text(hub.gated)
    token.chmod(0o600)
    async with running_registry(tmp_path, fetch=options(hub, hub_token_file=token)) as registry:
        model = await hub_model(registry)
        assert (await ended(registry, model)).status == "Ready"
        assert hub.gated not in await log(registry, model)


async def test_a_hub_that_is_down_is_tried_again(
    registry: Registry, hub: HubServer, tmp_path: Path
) -> None:
    hub.broken = 503
    failed = await ended(registry, await hub_model(registry))
    assert (failed.status, failed.reason) == ("Error", "FetchFailed")
    assert "cannot serve now (HTTP 503)" in failed.message
    assert (await log(registry, failed)).count("fetching owner/name") == 2
    hub.broken = 0
    assert (await ended(registry, await hub_model(registry))).status == "Ready"


async def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    fetch = FetchOptions(hub_endpoint="http://127.0.0.1:9", attempts=1)
    async with running_registry(tmp_path, fetch=fetch) as registry:
        failed = await ended(registry, await hub_model(registry))
        assert "cannot be reached" in failed.message
        assert "--hub-endpoint" in failed.message


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
async def test_bytes_that_are_not_what_the_hub_announced(
    registry: Registry, hub: HubServer, path: str
) -> None:
    hub.spoiled.add(path)
    failed = await ended(registry, await hub_model(registry))
    assert (failed.status, failed.reason) == ("Error", "FetchFailed")
    assert "damaged on its way" in failed.message
    assert path in failed.message


async def test_a_quota_stops_a_fetch(tmp_path: Path, hub: HubServer) -> None:
    async with running_registry(tmp_path, fetch=options(hub), model_quota=200_000) as registry:
        failed = await ended(registry, await hub_model(registry))
        assert (failed.status, failed.reason) == ("Error", "FetchFailed")
        assert "--model-quota" in failed.message
        assert not any("/resolve/" in asked for asked in hub.asked)


async def test_the_accounts_quota_stops_a_fetch(registry: Registry, hub: HubServer) -> None:
    async def set_model_bytes(limit: int) -> None:
        quota = account_pb2.AccountQuota(model_bytes=limit)
        request = pb.SetAccountQuotaRequest(account="admin", quota=quota)
        await registry.call("SetAccountQuota", request)

    await set_model_bytes(200_000)
    failed = await ended(registry, await hub_model(registry))
    assert (failed.status, failed.reason) == ("Error", "FetchFailed")
    assert "podbay account quota set" in failed.message
    assert not any("/resolve/" in asked for asked in hub.asked), "it was announced"
    await set_model_bytes(400_000)
    assert (await ended(registry, await hub_model(registry))).status == "Ready"
    read = await registry.call("GetAccountQuota", pb.GetAccountQuotaRequest(account="admin"))
    assert read.model_bytes_used == sum(map(len, FILES.values()))


async def test_a_deadline_stops_a_fetch(tmp_path: Path, hub: HubServer) -> None:
    hub.gate.clear()
    fetch = options(hub, deadline_seconds=3.0)
    async with running_registry(tmp_path, fetch=fetch) as registry:
        failed = await ended(registry, await hub_model(registry))
        assert "longer than 3 s" in failed.message
    hub.gate.set()


def fetching_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "podbay_registry.fetching" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


async def test_a_delete_ends_the_fetch_and_a_few_run_at_once(
    registry: Registry, hub: HubServer, tmp_path: Path
) -> None:
    hub.gate.clear()
    models = [await hub_model(registry) for _ in range(4)]
    await eventually(lambda: len(fetching_processes()) == 2, "two fetches")
    statuses = [(await get(registry, model)).status for model in models]
    assert statuses == ["Admitted", "Admitted", "Created", "Created"]
    for model in models[:3]:
        await registry.call("DeleteModel", pb.DeleteModelRequest(id=model.id))
    await eventually(lambda: len(fetching_processes()) == 1, "the last one alone")
    hub.gate.set()
    assert (await ended(registry, models[3])).status == "Ready"
    assert {(await get(registry, model)).status for model in models[:3]} == {"Deleted"}
    await eventually(lambda: staging(tmp_path) == [], "nothing left behind")


async def test_a_process_that_is_killed_is_tried_again(registry: Registry, hub: HubServer) -> None:
    hub.gate.clear()
    model = await hub_model(registry)
    await eventually(lambda: fetching_processes() and hub.asked, "the fetch")
    fetching_processes()[0].send_signal(signal.SIGKILL)
    hub.gate.set()
    assert (await ended(registry, model)).status == "Ready"
    assert "killed by signal 9" in await log(registry, model)


async def test_a_restart_goes_on(tmp_path: Path, hub: HubServer) -> None:
    async with running_registry(tmp_path, fetch=options(hub)) as registry:
        hub.gate.clear()
        model = await hub_model(registry)

        async def admitted() -> bool:
            return (await get(registry, model)).status == "Admitted"

        await eventually(admitted, "the fetch")
        await eventually(lambda: any("/resolve/" in a for a in hub.asked), "the first file")
    assert fetching_processes() == []
    hub.gate.set()
    assert staging(tmp_path) == [model.id]
    async with running_registry(tmp_path, fetch=options(hub)) as registry:
        assert (await ended(registry, model)).status == "Ready"
        assert len(await tree(registry, model)) == 4


@pytest.mark.needs_git_lfs
async def test_a_git_repository_with_large_files(registry: Registry, tmp_path: Path) -> None:
    files = {"README.md": b"# hal", "deep/Ünï cödé.bin": BIG, "small.bin": b"x"}
    commit = make_repository(tmp_path / "repos/hal", files)
    with GitServer(tmp_path / "repos") as server:
        url = f"{server.address}/hal.git"
        model = await git_model(registry, url)
        done = await ended(registry, model)
        assert done.status == "Ready", await log(registry, model)
        got = await tree(registry, model)
        assert {path: got[path] for path in files} == files
        assert set(got) == {*files, ".gitattributes"}
        text = await log(registry, model)
        assert "left out: 'link' is a symbolic link" in text
        assert commit in text
        # A commit, in the layout of a cache.
        cache = model_pb2.ModelArtifactHuggingFaceCache(repo_id="a/hal", revision=commit)
        artifact = model_pb2.ModelArtifact(kind="HuggingFaceCache", hugging_face_cache=cache)
        model = await git_model(registry, url, artifact)
        assert (await ended(registry, model)).status == "Ready", await log(registry, model)
        assert f"models--a--hal/snapshots/{commit}/README.md" in await tree(registry, model)


@pytest.mark.needs_git_lfs
async def test_causes_of_git(registry: Registry, tmp_path: Path) -> None:
    make_repository(tmp_path / "repos/hal", {"a.bin": BIG})
    with GitServer(tmp_path / "repos") as server:
        missing = await ended(registry, await git_model(registry, f"{server.address}/none.git"))
        assert "is not a Git repository" in missing.message
        assert "Git says:" in missing.message
        cache = model_pb2.ModelArtifactHuggingFaceCache(repo_id="a/hal", revision="no-such")
        artifact = model_pb2.ModelArtifact(kind="HuggingFaceCache", hugging_face_cache=cache)
        url = f"{server.address}/hal.git"
        failed = await ended(registry, await git_model(registry, url, artifact))
        assert "no revision 'no-such'" in failed.message
        server.without.add(sha256(BIG))
        lost = await ended(registry, await git_model(registry, url))
        assert (lost.status, lost.reason) == ("Error", "FetchFailed")
        assert "Object does not exist" in lost.message, lost.message
    away = await ended(registry, await git_model(registry, f"{server.address}/hal.git"))
    assert "cannot be reached" in away.message


async def test_git_that_is_not_installed(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    failed = await ended(registry, await git_model(registry, "http://127.0.0.1:9/hal.git"))
    assert "git is not on its PATH" in failed.message


async def test_a_registry_that_is_killed_takes_its_fetches_with_it(
    tmp_path: Path, hub: HubServer
) -> None:
    hub.gate.clear()
    registry = RegistryProcess(tmp_path, "--hub-endpoint", hub.address)
    await asyncio.to_thread(registry.start)
    try:
        async with grpc.aio.insecure_channel(registry.address) as channel:
            running = Registry(0, channel, registry.token)
            model = await hub_model(running)
            await eventually(lambda: any("/resolve/" in a for a in hub.asked), "the first file")
            children = psutil.Process(registry.pid).children(recursive=True)
            assert children
            await asyncio.to_thread(registry.kill)
            await eventually(lambda: not any(c.is_running() for c in children), "their end")
            hub.gate.set()
            await asyncio.to_thread(registry.start)
            assert (await ended(running, model)).status == "Ready"
            assert len(await tree(running, model)) == 4
    finally:
        await asyncio.to_thread(registry.stop)


async def test_models_with_equal_files_at_once(registry: Registry) -> None:
    models = [await hub_model(registry) for _ in range(4)]
    for model in models:
        assert (await ended(registry, model)).status == "Ready"
        assert len(await tree(registry, model)) == 4


async def test_a_path_that_leads_out_of_the_folder(
    registry: Registry, hub: HubServer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not of the model")
    hub.files["owner/name"]["../../../../../../secret"] = b"not of the model"
    failed = await ended(registry, await hub_model(registry))
    assert (failed.status, failed.reason) == ("Error", "FetchFailed")
    assert secret.stat().st_nlink == 1
    assert secret.read_text() == "not of the model"
