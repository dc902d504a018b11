"""Both faces of the client upload and download folders, over a real registry."""

from __future__ import annotations

import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from podbay import AsyncClient, Client, errors
from podbay._volumes.scan import LeftOut, left_out
from podbay.errors import DeadlineExceededError
from podbay.types import TransferProgress
from tests.support.client_faces import AsyncFace, SyncFace, _Blocking
from tests.support.model_files import md5, sha256
from tests.support.registry_process import RegistryProcess

MiB = 1 << 20


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: Any) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    with RegistryProcess(tmp_path_factory.mktemp("installation"), "--no-fetch") as running:
        yield running


@pytest.fixture
def mortal_registry(tmp_path: Path) -> Iterator[RegistryProcess]:
    folder = tmp_path / "installation"
    folder.mkdir()
    with RegistryProcess(folder, "--no-fetch") as running:
        yield running


def connect(face: Any, registry: RegistryProcess, **options: Any) -> Any:
    address = options.pop("address", registry.address)
    options = {"timeout": 20.0, **options}
    if isinstance(face, SyncFace):
        return Client(address, registry.token, **options)
    return _Blocking(AsyncClient(address, registry.token, **options), face.run)


@pytest.fixture
def client(face: Any, registry: RegistryProcess) -> Iterator[Any]:
    with connect(face, registry) as made:
        yield made


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    (root / "weights/deep").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "empty").write_bytes(b"")
    (root / "weights/a.bin").write_bytes(random.Random(1).randbytes(3 * MiB + 17))
    (root / "weights/deep/Ünïcödé name (1).txt").write_bytes(b"x")
    (root / ".hidden").write_text("dot")
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def create(client: Any, root: Path, **options: Any) -> Any:
    return client.models.create_from_volume(
        root, account="admin", name="m", resources={"memory": "1Gi"}, **options
    )


def test_a_folder_there_and_back(client: Any, volume: Path, tmp_path: Path) -> None:
    model = create(client, volume)
    assert model.status == "WaitingForUpload"
    with pytest.raises(DeadlineExceededError):
        list(client.models.stream_workflow_logs(model.id, timeout=0.05))
    files = tree(volume)
    assert {f.path: (f.size, f.digest.md5) for f in model.artifact.volume.files} == {
        path: (len(data), md5(data)) for path, data in files.items()
    }
    told: list[TransferProgress] = []
    ready = client.models.upload_volume(model, volume, progress=told.append)
    assert ready.status == "Ready"
    total = sum(map(len, files.values()))
    for activity in ("read", "upload"):
        mine = [each for each in told if each.activity == activity]
        assert (mine[-1].done, mine[-1].total) == (total, total)
        assert [each.done for each in mine] == sorted(each.done for each in mine)
    assert [(f.path, f.sha256, f.state) for f in client.models.files(model.id)] == [
        (path, sha256(files[path]), "Stored") for path in sorted(files)
    ]
    told.clear()
    copy = tmp_path / "copy"
    client.models.download(model.id, copy, progress=told.append)
    assert tree(copy) == files
    assert (told[-1].activity, told[-1].done, told[-1].total) == ("download", total, total)
    # Again: nothing moves.
    before = {path: (copy / path).stat().st_mtime_ns for path in files}
    client.models.download(model.id, copy)
    assert {path: (copy / path).stat().st_mtime_ns for path in files} == before
    assert client.models.upload_volume(model.id, volume).status == "Ready"
    lines = list(client.models.logs(model.id))
    assert "finalized" in lines[-1]
    answer = client.models.workflow_logs(model.id, since="1h", limit=2)
    assert (answer.workflow.kind, answer.workflow.id) == ("Model", model.id)
    assert [f"{e.timestamp[:19]}Z {e.message}" for e in answer.logs] == lines[-2:]
    followed = list(client.models.stream_workflow_logs(model.id, timeout=30))
    assert [entry.message for entry in followed[-2:]] == [e.message for e in answer.logs]
    client.models.download_logs(model.id, tmp_path / "log")
    assert (tmp_path / "log").read_text().splitlines() == lines
    with pytest.raises(FileExistsError):
        client.models.download_logs(model.id, tmp_path / "log")


def test_patterns_choose(client: Any, volume: Path) -> None:
    def paths(**options: Any) -> list[str]:
        return [file.path for file in create(client, volume, **options).artifact.volume.files]

    deep = "weights/deep/Ünïcödé name (1).txt"
    assert paths(include=["weights/"]) == ["weights/a.bin", deep]
    assert paths(include=["weights/"], exclude=["*.bin"]) == [deep]
    assert paths(exclude=["*", "!*.json"]) == ["config.json"]
    with pytest.raises(ValueError, match="no such files"):
        paths(include=["nothing"])
    with pytest.raises(errors.InvalidRequestError, match="list of patterns"):
        paths(include="*.bin")


def test_links_and_other_things(client: Any, volume: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("outside")
    (volume / "link").symlink_to(outside / "file")
    (volume / "folder-link").symlink_to(outside)
    os.mkfifo(volume / "pipe")

    def paths(**options: Any) -> set[str]:
        return {file.path for file in create(client, volume, **options).artifact.volume.files}

    assert not paths() & {"link", "folder-link/file", "pipe"}
    assert left_out(volume) == LeftOut(("folder-link", "link"), ("pipe",))
    assert left_out(volume, include_symlinks=True) == LeftOut((), ("pipe",))
    assert left_out(volume, exclude=["*link", "pipe"]) == LeftOut((), ())
    with pytest.raises(errors.InvalidRequestError, match="only symbolic links"):
        paths(include=["link"])
    assert {"link", "folder-link/file"} < paths(include_symlinks=True)
    model = create(client, volume, include_symlinks=True)
    assert client.models.upload_volume(model, volume).status == "Ready"
    (volume / "loop").symlink_to(volume)
    with pytest.raises(errors.InvalidRequestError, match="a folder that it is in"):
        paths(include_symlinks=True)
    (volume / "loop").unlink()
    (volume / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(errors.InvalidRequestError, match="dangling: cannot be read"):
        paths(include_symlinks=True)
    assert "config.json" in paths()


@pytest.mark.parametrize("name", ["a:b", "con", "ends with dot.", "new\nline", "back\\slash"])
def test_names_that_are_not_portable(client: Any, volume: Path, name: str) -> None:
    (volume / name).write_text("x")
    with pytest.raises(errors.InvalidRequestError, match="leave it out with exclude"):
        create(client, volume)
    escaped = name.replace("\\", "\\\\")
    if "\n" not in name:
        assert create(client, volume, exclude=[escaped]).status == "WaitingForUpload"


def test_a_name_that_is_not_utf_8(client: Any, volume: Path) -> None:
    (Path(os.fsdecode(os.fsencode(volume) + b"/\xff\xfe"))).write_text("x")
    with pytest.raises(errors.InvalidRequestError, match="not UTF-8"):
        create(client, volume)


def test_a_file_that_may_not_be_read(
    client: Any, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (volume / "secret").write_text("x")
    (volume / "secret").chmod(0)
    if os.geteuid() == 0:
        # Root may read everything; what the system would say to others is put in its place.
        may = os.access
        monkeypatch.setattr(
            "podbay._volumes.scan.os.access",
            lambda path, mode: path.name != "secret" and may(path, mode),
        )
    with pytest.raises(errors.InvalidRequestError, match="secret: may not be read"):
        create(client, volume)
    assert create(client, volume, exclude=["secret"]).status == "WaitingForUpload"


def test_folders_that_are_none(client: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        create(client, tmp_path / "nothing")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="has no files"):
        create(client, tmp_path / "bare")


def test_files_that_changed_since(client: Any, volume: Path) -> None:
    model = create(client, volume)
    (volume / "config.json").write_text("[]")
    with pytest.raises(errors.InvalidRequestError, match="MD5 differs"):
        client.models.upload_volume(model, volume)
    (volume / "config.json").write_text("longer")
    with pytest.raises(errors.InvalidRequestError, match="has 6 bytes"):
        client.models.upload_volume(model, volume)
    (volume / "config.json").unlink()
    with pytest.raises(errors.InvalidRequestError, match="is not a file"):
        client.models.upload_volume(model, volume)
    with pytest.raises(errors.ConflictError) as caught:
        client.models.finalize(model.id)
    assert caught.value.reason == "MODEL_FILES_MISSING"


def test_what_is_in_the_way_of_a_download(client: Any, volume: Path, tmp_path: Path) -> None:
    model = create(client, volume)
    with pytest.raises(errors.ConflictError) as caught:
        client.models.download(model.id, tmp_path / "copy")
    assert caught.value.reason == "MODEL_NOT_READY"
    client.models.upload_volume(model, volume)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/config.json").write_text("mine")
    with pytest.raises(errors.InvalidRequestError, match="there with other content"):
        client.models.download(model.id, tmp_path / "copy")
    assert (tmp_path / "copy/config.json").read_text() == "mine"


def test_refusals(client: Any, registry: RegistryProcess) -> None:
    with pytest.raises(errors.PodbayError, match="upload_volume"):
        client.models.uplink("m", "a")
    mock = client.models.create(
        {
            "account": "admin",
            "name": "m",
            "artifact": {"kind": "Mock"},
            "source": {"kind": "Mock"},
            "resources": {},
        }
    )
    with pytest.raises(errors.InvalidRequestError, match="come from elsewhere"):
        client.models.upload_volume(mock, "/")
    with pytest.raises(errors.NotFoundError):
        client.models.upload_volume("no-such", "/")
    with pytest.raises(errors.InvalidRequestError, match="model"):
        client.models.upload_volume(None, "/")


def test_a_quota_is_told_while_the_bytes_flow(face: Any, volume: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    with (
        RegistryProcess(folder, "--model-quota", "1Mi") as registry,
        connect(face, registry) as client,
    ):
        model = create(client, volume)
        for _ in range(10):
            with pytest.raises(errors.ConflictError) as caught:
                client.models.upload_volume(model, volume)
            assert caught.value.reason == "STORAGE_FULL", caught.value


class CuttingProxy:
    """Passes bytes between a client and a server, and cuts connections after some of them."""

    def __init__(self, target: str, seed: int, longest: int) -> None:
        self._target = target.rpartition(":")
        self._chance = random.Random(seed)
        self._longest = longest
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # a close alone leaves the accept waiting
        self._thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((self._target[0], int(self._target[2])))
            except OSError:
                near.close()
                continue
            left = [self._chance.randint(200_000, self._longest)]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(*pair, left), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, left: list[int]) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data[: left[0]])
                left[0] -= len(data)
                if left[0] <= 0:
                    self.cuts += 1
                    break
        except OSError:
            pass
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_a_connection_that_is_cut_again_and_again(
    face: Any, registry: RegistryProcess, volume: Path, tmp_path: Path
) -> None:
    (volume / "new").write_bytes(os.urandom(3 * MiB))
    proxy = CuttingProxy(registry.address, 5, 1_500_000)
    try:
        with connect(face, registry, address=proxy.address) as client:
            model = create(client, volume)
            assert client.models.upload_volume(model, volume).status == "Ready"
            cuts = proxy.cuts
            assert cuts >= 3
            client.models.download(model.id, tmp_path / "copy")
            assert proxy.cuts - cuts >= 3
        assert tree(tmp_path / "copy") == tree(volume)
    finally:
        proxy.close()


def test_a_registry_that_is_killed_in_the_middle(
    face: Any, mortal_registry: RegistryProcess, tmp_path: Path
) -> None:
    registry = mortal_registry
    root = tmp_path / "large"
    root.mkdir()
    (root / "a").write_bytes(random.Random(2).randbytes(40 * MiB))
    kills = [10 * MiB, 25 * MiB]

    def progress(now: TransferProgress) -> None:
        if now.activity == "upload" and kills and now.done >= kills[0]:
            kills.pop(0)
            registry.kill()
            registry.start()

    with connect(face, registry) as client:
        model = create(client, root)
        assert client.models.upload_volume(model, root, progress=progress).status == "Ready"
        assert kills == []
        client.models.download(model.id, tmp_path / "copy")
    assert (tmp_path / "copy/a").read_bytes() == (root / "a").read_bytes()


def test_memory_stays_flat(face: Any, mortal_registry: RegistryProcess, tmp_path: Path) -> None:
    registry = mortal_registry
    root = tmp_path / "large"
    root.mkdir()
    with (root / "a").open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(MiB))
    process = psutil.Process(registry.pid)
    own = psutil.Process()
    peak = {"registry": 0, "client": 0}
    ended = threading.Event()

    def measure() -> None:
        while not ended.wait(0.02):
            peak["registry"] = max(peak["registry"], process.memory_info().rss)
            peak["client"] = max(peak["client"], own.memory_info().rss)

    with connect(face, registry) as client:
        client.models.query()
        before = {"registry": process.memory_info().rss, "client": own.memory_info().rss}
        watcher = threading.Thread(target=measure)
        watcher.start()
        began = time.monotonic()
        model = create(client, root)
        client.models.upload_volume(model, root)
        uploaded = time.monotonic()
        client.models.download(model.id, tmp_path / "copy")
        downloaded = time.monotonic()
        ended.set()
        watcher.join()
    grown = {name: (peak[name] - before[name]) / MiB for name in peak}
    print(f"grown MiB {grown}, up {uploaded - began:.1f} s, down {downloaded - uploaded:.1f} s")
    assert grown["registry"] < 60, grown
    assert grown["client"] < 60, grown
    shutil.rmtree(tmp_path / "copy")
