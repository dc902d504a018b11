"""The cache of models on a node, over a real registry."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from podbay.v1 import errors_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit import model_cache
from podbay_kit.errors import ServiceError
from podbay_kit.model_cache import CacheProgress, ModelCache
from podbay_kit.model_layout import LaidFile
from podbay_kit.model_source import RegistryModelFiles, SourceAwayError
from tests.support.eventually import eventually
from tests.support.model_files import sha256, upload_all, uploaded_model
from tests.support.registry import SERVICE_TOKEN, Registry, running_registry
from tests.support.small_disk import small_disk

R = errors_pb2
BIG = random.Random(8).randbytes(1_500_000)
FILES = {"config.json": b"{}", "weights/a.bin": BIG, "weights/copy.bin": BIG, "empty": b""}


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cache, "_FIRST_PAUSE", 0.01)


class Source(RegistryModelFiles):
    """The registry, with faults: `cut` ends reads after some bytes, `gate` holds them."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.stub, (("authorization", f"Bearer {SERVICE_TOKEN}"),))
        self.reads: list[tuple[str, int]] = []
        self.cut: int | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.spoil = 0

    async def read(self, model_id: str, path: str, offset: int) -> AsyncIterator[bytes]:
        self.reads.append((path, offset))
        sent = 0
        async for data in super().read(model_id, path, offset):
            await self.gate.wait()
            if self.spoil:
                self.spoil -= 1
                yield bytes(len(data))
                continue
            if self.cut is not None and sent + len(data) > self.cut:
                yield data[: self.cut - sent]
                raise SourceAwayError("cut")
            sent += len(data)
            yield data


@asynccontextmanager
async def caching(
    folder: Path, source: RegistryModelFiles, quota: int | None = None
) -> AsyncIterator[ModelCache]:
    cache = ModelCache(folder / "cache", source, quota=quota)
    await cache.start()
    try:
        yield cache
    finally:
        await cache.close()


async def ready_model(registry: Registry, files: dict[str, bytes]) -> str:
    model = await uploaded_model(registry, files)
    await upload_all(registry, model.id, files)
    return model.id


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def cached(folder: Path) -> set[str]:
    return set(os.listdir(folder / "cache/models"))


async def refused(awaitable: object) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await awaitable  # type: ignore[misc] # what a test hands in
    return caught.value


async def test_a_model_is_laid_out_whole_and_read_only(registry: Registry, tmp_path: Path) -> None:
    model, source = await ready_model(registry, FILES), Source(registry)
    told: list[CacheProgress] = []
    async with caching(tmp_path, source) as cache:
        folder = await cache.ensure(model, progress=told.append)
        assert tree(folder) == FILES
        assert sorted(path for path, _ in source.reads) == ["config.json", "weights/a.bin"]
        assert told[-1] == CacheProgress(len(BIG) + 2, len(BIG) + 2)
        assert [each.done for each in told] == sorted(each.done for each in told)
        assert {path.stat().st_mode & 0o777 for path in folder.rglob("*.bin")} == {0o444}
        assert {path.stat().st_mode & 0o777 for path in (folder, folder / "weights")} == {0o555}
        assert folder.joinpath("weights/a.bin").samefile(folder / "weights/copy.bin")
        assert await cache.ensure(model) == folder
        assert len(source.reads) == 2
    # A new process finds it there.
    async with caching(tmp_path, source) as cache:
        assert tree(await cache.ensure(model)) == FILES
        assert len(source.reads) == 2


async def test_those_who_ask_at_once_share_one_transfer(registry: Registry, tmp_path: Path) -> None:
    model, source = await ready_model(registry, FILES), Source(registry)
    other = await ready_model(registry, {"x": BIG})
    async with caching(tmp_path, source) as cache:
        folders = await asyncio.gather(*(cache.ensure(m) for m in [model] * 10 + [other] * 3))
        assert len(set(folders)) == 2
        # The big content came once, although two models have it, in three files.
        assert sum(path in ("weights/a.bin", "x") for path, _ in source.reads) == 1
        assert (folders[0] / "weights/a.bin").samefile(folders[-1] / "x")


async def test_one_who_goes_away_ends_nothing_for_the_others(
    registry: Registry, tmp_path: Path
) -> None:
    model, source = await ready_model(registry, FILES), Source(registry)
    source.gate.clear()
    async with caching(tmp_path, source) as cache:
        first = asyncio.create_task(cache.ensure(model))
        second = asyncio.create_task(cache.ensure(model))
        await eventually(lambda: len(source.reads) == 2, "the transfer")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        source.gate.set()
        assert tree(await second) == FILES
        # With the last one the transfer ends, and who comes then begins another.
        other = await ready_model(registry, {"b": b"b" * 1000})
        source.gate.clear()
        alone = asyncio.create_task(cache.ensure(other, holder="h"))
        await eventually(lambda: ("b", 0) in source.reads, "the other transfer")
        alone.cancel()
        again = asyncio.create_task(cache.ensure(other))
        await asyncio.gather(alone, return_exceptions=True)
        source.gate.set()
        assert tree(await again) == {"b": b"b" * 1000}


async def test_a_transfer_that_breaks_goes_on_at_its_byte(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = await ready_model(registry, {"a": BIG}), Source(registry)
    source.cut = 333_333
    async with caching(tmp_path, source) as cache:
        # Each try has all the patience again, as long as something comes.
        monkeypatch.setattr(model_cache, "_PATIENCE_SECONDS", 0.2)
        monkeypatch.setattr(model_cache, "_FIRST_PAUSE", 0.15)
        assert tree(await cache.ensure(model)) == {"a": BIG}
    assert [offset for _, offset in source.reads] == list(range(0, len(BIG), 333_333))


async def test_bytes_that_were_spoiled(registry: Registry, tmp_path: Path) -> None:
    model, source = await ready_model(registry, {"a": BIG}), Source(registry)
    source.spoil = 1
    async with caching(tmp_path, source) as cache:
        assert tree(await cache.ensure(model)) == {"a": BIG}
        other = await ready_model(registry, {"b": b"b" * 1000})
        source.spoil = 2
        error = await refused(cache.ensure(other))
        assert error.reason == R.ERROR_REASON_DIGEST_MISMATCH
        assert error.metadata["expected"] == sha256(b"b" * 1000)
        assert tree(await cache.ensure(other)) == {"b": b"b" * 1000}


async def test_a_file_that_changed_on_the_node_is_fetched_again(
    registry: Registry, tmp_path: Path
) -> None:
    model, source = await ready_model(registry, FILES), Source(registry)
    async with caching(tmp_path, source) as cache:
        folder = await cache.ensure(model)
        file = folder / "weights/a.bin"
        file.chmod(0o600)
        with file.open("r+b") as opened:
            opened.seek(1000)
            opened.write(b"changed")
        assert tree(await cache.ensure(model)) == FILES
        (folder / "weights").chmod(0o700)
        (folder / "weights/copy.bin").unlink()
        assert tree(await cache.ensure(model)) == FILES


async def test_a_damaged_model_in_use_stays_where_it_is_mounted(
    registry: Registry, tmp_path: Path
) -> None:
    model = await ready_model(registry, {"a": b"abc", "b": b"damaged"})
    async with caching(tmp_path, Source(registry)) as cache:
        folder = await cache.ensure(model, holder="replica")
        # As a mount does, an open folder follows what it was opened on.
        mounted = os.open(folder, os.O_RDONLY)
        (folder / "b").chmod(0o600)
        (folder / "b").write_bytes(b"changed")
        assert tree(await cache.ensure(model)) == {"a": b"abc", "b": b"damaged"}
        assert sorted(os.listdir(mounted)) == ["a", "b"]
        os.close(mounted)


async def test_what_is_in_use_stays(registry: Registry, tmp_path: Path) -> None:
    a, b, c = [
        await ready_model(registry, {name: name.encode() * 4000, "shared": b"s" * 1000})
        for name in "abc"
    ]
    async with caching(tmp_path, Source(registry), quota=10_000) as cache:
        await cache.ensure(a, holder="replica-1")
        await cache.ensure(b)
        assert cached(tmp_path) == {a, b}
        folder = await cache.ensure(c)
        assert cached(tmp_path) == {a, c}
        assert tree(folder) == {"c": b"c" * 4000, "shared": b"s" * 1000}
        cache.hold(c, "replica-2")
        error = await refused(cache.ensure(b, holder="replica-3"))
        assert error.reason == R.ERROR_REASON_STORAGE_FULL
        assert "2 models are in use" in error.message
        assert cached(tmp_path) == {a, c}
        cache.release(a, "replica-1")
        await cache.ensure(b, holder="replica-3")
        assert cached(tmp_path) == {b, c}
        # The failed try has left no holder behind: c stays because of replica-2 alone.
        cache.release(b, "replica-3")
        cache.release(c, "replica-2")
        await cache.ensure(a)
        assert a in cached(tmp_path)


async def test_a_model_that_can_never_fit(registry: Registry, tmp_path: Path) -> None:
    small, large = [await ready_model(registry, {"f": b"f" * size}) for size in (1000, 20_000)]
    async with caching(tmp_path, Source(registry), quota=10_000) as cache:
        await cache.ensure(small)
        assert (await refused(cache.ensure(large))).reason == R.ERROR_REASON_STORAGE_FULL
        # Nothing left for nothing.
        assert cached(tmp_path) == {small}


@pytest.mark.needs_small_disk
async def test_a_full_disk_keeps_what_came_and_shows_nothing_half(
    registry: Registry, tmp_path: Path
) -> None:
    files = {name: random.Random(name).randbytes(1_500_000) for name in "abc"}
    model, source = await ready_model(registry, files), Source(registry)
    with small_disk(tmp_path / "cache", "2m") as disk:
        async with caching(tmp_path, source) as cache:
            error = await refused(cache.ensure(model, holder="replica"))
            assert error.reason == R.ERROR_REASON_STORAGE_FULL
            assert error.metadata == {"disk": "full"}
            assert cached(tmp_path) == set()
            disk.grow("20m")
            source.reads.clear()
            assert tree(await cache.ensure(model, holder="replica")) == files
            # What had come was not fetched again.
            assert any(offset > 0 for _, offset in source.reads) or len(source.reads) < len(files)


async def test_models_that_cannot_be_had(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(registry)
    waiting = await uploaded_model(registry, {"a": b"a"})
    deleted = await ready_model(registry, {"a": b"a"})
    await registry.call("DeleteModel", pb.DeleteModelRequest(id=deleted))
    damaged = await ready_model(registry, {"a": b"damaged"})
    blob = next((tmp_path / "registry/models/blobs/files").glob(f"*/{sha256(b'damaged')}"))
    blob.chmod(0o600)
    blob.write_bytes(b"changed")
    async with caching(tmp_path, source) as cache:
        for model, reason in (
            (waiting.id, R.ERROR_REASON_MODEL_NOT_READY),
            (deleted, R.ERROR_REASON_REFERENCE_DELETED),
            ("no-such", R.ERROR_REASON_MODEL_NOT_FOUND),
            (damaged, R.ERROR_REASON_MODEL_FILE_DAMAGED),
        ):
            assert (await refused(cache.ensure(model))).reason == reason
        for odd in ("../x", ".hidden", "", "a/b"):
            with pytest.raises(ValueError, match="not the id"):
                await cache.ensure(odd)
        monkeypatch.setattr(model_cache, "_PATIENCE_SECONDS", 0.1)

        async def away(model_id: str) -> list[LaidFile]:
            raise SourceAwayError("UNAVAILABLE")

        monkeypatch.setattr(source, "list_files", away)
        error = await refused(cache.ensure(waiting.id))
        assert error.reason == R.ERROR_REASON_DEPENDENCY_UNAVAILABLE
        assert error.retry_after


async def test_what_a_crash_leaves_is_removed(registry: Registry, tmp_path: Path) -> None:
    model = await ready_model(registry, FILES)
    async with caching(tmp_path, Source(registry)) as cache:
        await cache.ensure(model)
    models = tmp_path / "cache/models"
    (models / ".half.draft").mkdir()
    (models / "without-manifest").mkdir()
    (models / "without-manifest/a").write_text("a")
    old = tmp_path / "cache/blobs/incoming" / ("0" * 64)
    old.write_bytes(b"old")
    os.utime(old, (0, 0))
    (tmp_path / "cache/manifests" / f"{model}.json").write_text("[{")
    async with caching(tmp_path, Source(registry)) as cache:
        assert cached(tmp_path) == {model}
        assert not old.exists()
        assert tree(await cache.ensure(model)) == FILES


async def test_links_are_copies_where_there_are_none(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(18, "cross-device")

    model = await ready_model(registry, FILES)
    monkeypatch.setattr("podbay_kit.model_layout.os.link", no_links)
    async with caching(tmp_path, Source(registry)) as cache:
        folder = await cache.ensure(model)
        assert tree(folder) == FILES
        assert (folder / "weights/a.bin").stat().st_mode & 0o777 == 0o444
        assert not (folder / "weights/a.bin").samefile(folder / "weights/copy.bin")
