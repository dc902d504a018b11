"""The files of models: uploads that break off, digests, grants, quotas, and what a disk does."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.v1 import model_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay.v1 import registry_service_pb2_grpc as rpc
from tests.support.eventually import eventually
from tests.support.model_files import (
    chunks_of,
    download,
    header_of,
    md5,
    offer,
    sha256,
    upload,
    upload_all,
    uploaded_model,
)
from tests.support.registry import Registry, grant, running_registry
from tests.support.rpc import details_of

CODE = grpc.StatusCode
FILES = {
    "config.json": b'{"hal": 9000}',
    "weights/model-00001.bin": random.Random(1).randbytes(2_500_000),
    "weights/empty.bin": b"",
    "Überraschung.txt": b"\0\xff",
}


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path) as running:
        yield running


async def failure(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Return the code, the reason and the evidence of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info, _ = details_of(caught.value)
    return caught.value.code(), info.reason, dict(info.metadata)


async def reason(call: Any) -> str:
    return (await failure(call))[1]


def finalize(registry: Registry, model: str, token: str | None = None) -> Any:
    return registry.call("FinalizeModel", pb.FinalizeModelRequest(id=model), token=token)


def blobs(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in (folder / "registry/models/blobs/files").glob("*/*")}


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "registry/models/blobs/incoming").iterdir())


async def listed(registry: Registry, model: str, size: int = 0) -> list[model_pb2.ModelFile]:
    files, token = list[model_pb2.ModelFile](), ""
    while True:
        request = pb.ListModelFilesRequest(id=model, page_size=size, page_token=token)
        answer = await registry.call("ListModelFiles", request)
        files += answer.files
        token = answer.next_page_token
        if not token:
            return files


async def test_from_waiting_to_ready(registry: Registry) -> None:
    model = await uploaded_model(registry, FILES)
    assert (model.status, model.reason) == ("WaitingForUpload", "")
    assert "podbay model upload" in model.message
    assert await reason(download(registry, model.id, "config.json")) == "MODEL_NOT_READY"
    code, why, evidence = await failure(finalize(registry, model.id))
    assert (code, why) == (CODE.FAILED_PRECONDITION, "MODEL_FILES_MISSING")
    assert evidence["missing"] == "4"
    assert set(evidence["files"].splitlines()) == set(FILES)

    assert await offer(registry, model.id, FILES) == dict.fromkeys(FILES, 0)
    for path, data in FILES.items():
        file = await upload(registry, model.id, path, data)
        assert (file.path, file.size, file.sha256) == (path, len(data), sha256(data))
        assert (file.md5, file.state) == (md5(data), model_pb2.MODEL_FILE_STATE_STORED)
    assert await offer(registry, model.id, FILES) == {}
    ready = (await finalize(registry, model.id)).model
    assert (ready.status, ready.message) == ("Ready", "")
    assert ready.last_transition_time.ToDatetime() > model.creation_time.ToDatetime()
    assert (await finalize(registry, model.id)).model == ready
    for path, data in FILES.items():
        assert await download(registry, model.id, path) == data
        assert (
            await download(registry, model.id, path, offset=len(data) // 2)
            == (data[len(data) // 2 :])
        )
    for size in (0, 1, 3):
        files = await listed(registry, model.id, size)
        assert [file.path for file in files] == sorted(FILES)
        assert {file.path: file.sha256 for file in files} == {
            path: sha256(data) for path, data in FILES.items()
        }
    logs = registry.stub.StreamModelLogs(
        pb.StreamModelLogsRequest(id=model.id), metadata=registry.metadata()
    )
    lines = [line async for answer in logs for line in answer.lines]
    assert len(lines) == 5
    assert "finalized" in lines[-1]


async def test_a_model_without_files_is_ready_at_once_when_it_is_finalized(
    registry: Registry,
) -> None:
    model = await uploaded_model(registry, {})
    assert model.status == "WaitingForUpload"
    assert (await finalize(registry, model.id)).model.status == "Ready"
    assert await listed(registry, model.id) == []


async def test_an_upload_cut_at_any_byte_goes_on(registry: Registry, tmp_path: Path) -> None:
    chance = random.Random(7)
    data = chance.randbytes(3_000_000)
    model = await uploaded_model(registry, {"a": data})
    cuts = 0
    while True:
        needs = await offer(registry, model.id, {"a": data})
        if not needs:
            break
        offset = needs["a"]
        # The stream breaks after a number of bytes that is no multiple of anything.
        cut = offset + chance.randint(0, 200_000)
        messages = [
            header_of(model.id, "a", data, offset),
            *chunks_of(data[:cut], offset, chance.randint(1, 70_000)),
        ]
        call = registry.stub.UploadModelFile(metadata=registry.metadata())
        for message in messages:
            await call.write(message)
        if cut >= len(data):
            await call
            break
        if chance.random() < 0.5:
            call.cancel()
        else:
            await call.done_writing()
            code, why, evidence = await failure(call)
            assert (code, why) == (CODE.ABORTED, "TRANSFER_INTERRUPTED")
            assert int(evidence["offset"]) == cut
        cuts += 1
    assert cuts > 15
    assert (await finalize(registry, model.id)).model.status == "Ready"
    assert await download(registry, model.id, "a") == data
    assert parts(tmp_path) == []


async def test_a_wrong_offset_tells_the_right_one(registry: Registry) -> None:
    data = b"x" * 1000
    model = await uploaded_model(registry, {"a": data})
    call = registry.stub.UploadModelFile(metadata=registry.metadata())
    await call.write(header_of(model.id, "a", data))
    await call.write(chunks_of(data[:300])[0])
    await call.done_writing()
    assert (await failure(call))[2]["offset"] == "300"
    code, why, evidence = await failure(upload(registry, model.id, "a", data))
    assert (code, why) == (CODE.OUT_OF_RANGE, "UPLOAD_OFFSET_MISMATCH")
    assert evidence == {"offset": "300"}
    # A chunk that leaves a gap is refused as well.
    call = registry.stub.UploadModelFile(metadata=registry.metadata())
    await call.write(header_of(model.id, "a", data, 300))
    await call.write(chunks_of(data, 400)[0])
    assert (await failure(call))[2] == {"offset": "300"}
    assert (await upload(registry, model.id, "a", data, offset=300)).sha256 == sha256(data)


async def test_bytes_that_are_not_those_announced(registry: Registry, tmp_path: Path) -> None:
    data, other = b"right" * 10, b"wrong" * 10
    model = await uploaded_model(registry, {"a": data})
    messages = [header_of(model.id, "a", data), *chunks_of(other)]
    code, why, evidence = await failure(
        registry.stub.UploadModelFile(iter(messages), metadata=registry.metadata())
    )
    assert (code, why) == (CODE.FAILED_PRECONDITION, "DIGEST_MISMATCH")
    assert evidence == {"path": "a", "expected": sha256(data), "found": sha256(other)}
    assert parts(tmp_path) == []
    # The digest that the model was created with counts, too.
    assert await reason(upload(registry, model.id, "a", other)) == "DIGEST_MISMATCH"
    assert await offer(registry, model.id, {"a": data}) == {"a": 0}
    damaged = chunks_of(data)
    damaged[0].chunk.crc32 ^= 1
    messages = [header_of(model.id, "a", data), *damaged]
    call = registry.stub.UploadModelFile(iter(messages), metadata=registry.metadata())
    assert await reason(call) == "TRANSFER_INTERRUPTED"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (lambda model: header_of(model, "b", b"abc"), "MODEL_FILE_NOT_FOUND"),
        (lambda model: header_of(model, "../a", b"abc"), "MODEL_FILE_NOT_FOUND"),
        (lambda model: header_of(model, "a", b"abcd"), "INVALID_REQUEST"),
        (lambda model: header_of(model, "a", b"abc", sha256="A" * 64), "INVALID_REQUEST"),
        (lambda model: header_of(model, "a", b"abc", sha256="../" + "a" * 61), "INVALID_REQUEST"),
        (lambda model: header_of(model, "a", b"abc", -1), "INVALID_REQUEST"),
        (lambda model: header_of(model, "a", b"abc", 3), "UPLOAD_OFFSET_MISMATCH"),
        (lambda model: header_of("no-such", "a", b"abc"), "MODEL_NOT_FOUND"),
        (lambda model: chunks_of(b"abc")[0], "INVALID_REQUEST"),
        (lambda model: pb.UploadModelFileRequest(), "INVALID_REQUEST"),
    ],
)
async def test_headers_that_are_refused(registry: Registry, message: Any, why: str) -> None:
    model = await uploaded_model(registry, {"a": b"abc"})
    call = registry.stub.UploadModelFile(
        iter([message(model.id), *chunks_of(b"abc")]), metadata=registry.metadata()
    )
    assert await reason(call) == why


@pytest.mark.parametrize("chunk", [b"x" * ((1 << 20) + 1), b"abcd"])
async def test_chunks_that_are_refused(registry: Registry, chunk: bytes) -> None:
    data = b"abc"
    model = await uploaded_model(registry, {"a": data})
    messages = [
        header_of(model.id, "a", data),
        pb.UploadModelFileRequest(chunk=pb.FileChunk(data=chunk)),
    ]
    call = registry.stub.UploadModelFile(iter(messages), metadata=registry.metadata())
    assert await reason(call) == "INVALID_REQUEST"
    assert await offer(registry, model.id, {"a": data}) == {"a": 0}


async def test_models_that_take_no_files(registry: Registry) -> None:
    mock = await registry.model()
    assert await reason(offer(registry, mock.id, {"a": b""})) == "MODEL_NOT_UPLOADABLE"
    assert await reason(finalize(registry, mock.id)) == "MODEL_NOT_UPLOADABLE"
    model = await uploaded_model(registry, {"a": b"abc"})
    await upload_all(registry, model.id, {"a": b"abc"})
    # Ready: another content of the same length is refused, the same one is welcome.
    assert await reason(upload(registry, model.id, "a", b"xyz")) == "DIGEST_MISMATCH"
    assert await offer(registry, model.id, {"a": b"abc"}) == {}
    await registry.call("DeleteModel", pb.DeleteModelRequest(id=model.id))
    for call in (
        offer(registry, model.id, {"a": b"abc"}),
        upload(registry, model.id, "a", b"abc"),
        finalize(registry, model.id),
        download(registry, model.id, "a"),
    ):
        assert await reason(call) == "REFERENCE_DELETED"


async def test_who_may_what(registry: Registry) -> None:
    await registry.account("ours")
    owner = await registry.token("ours")
    reader = await registry.token("ours", grant("models", "get query", "ours"))
    stranger = await registry.account("theirs")
    model = await uploaded_model(registry, {"a": b"abc"}, token=owner, account="ours")
    # What belongs to others is answered as what does not exist.
    for token, expected in ((reader, "PERMISSION_DENIED"), (stranger, "MODEL_NOT_FOUND")):
        for call in (
            offer(registry, model.id, {"a": b"abc"}, token=token),
            upload(registry, model.id, "a", b"abc", token=token),
            finalize(registry, model.id, token),
        ):
            assert await reason(call) == expected
    await upload_all(registry, model.id, {"a": b"abc"}, token=owner)
    assert await download(registry, model.id, "a", token=reader) == b"abc"
    request = pb.ListModelFilesRequest(id=model.id)
    assert (await registry.call("ListModelFiles", request, token=reader)).files
    assert await reason(download(registry, model.id, "a", token=stranger)) == "MODEL_NOT_FOUND"
    call = registry.call("ListModelFiles", request, token=stranger)
    assert await reason(call) == "MODEL_NOT_FOUND"


async def test_a_content_is_kept_once_and_given_only_to_who_has_it(
    registry: Registry, tmp_path: Path
) -> None:
    await registry.account("ours")
    await registry.account("theirs")
    data = {"a": b"the same" * 100, "b": b"the same" * 100}
    ours = await uploaded_model(registry, data, account="ours")
    await upload_all(registry, ours.id, data)
    assert len(blobs(tmp_path)) == 1
    again = await uploaded_model(registry, data, account="ours", name="again")
    assert await offer(registry, again.id, data) == {}
    # To know a digest is not to have the content.
    theirs = await uploaded_model(registry, data, account="theirs")
    assert await offer(registry, theirs.id, data) == {"a": 0, "b": 0}
    await upload_all(registry, theirs.id, data)
    assert len(blobs(tmp_path)) == 1


async def test_a_file_that_changed_on_the_disk_is_found_and_mended(
    registry: Registry, tmp_path: Path
) -> None:
    model = await uploaded_model(registry, FILES)
    await upload_all(registry, model.id, FILES)
    data = FILES["weights/model-00001.bin"]
    path = blobs(tmp_path)[sha256(data)]
    assert path.stat().st_mode & 0o777 == 0o444
    changed = bytearray(data)
    changed[1_234_567] ^= 1
    path.chmod(0o600)
    path.write_bytes(changed)
    code, why, evidence = await failure(download(registry, model.id, "weights/model-00001.bin"))
    assert (code, why) == (CODE.DATA_LOSS, "MODEL_FILE_DAMAGED")
    assert evidence["path"] == "weights/model-00001.bin"
    assert (evidence["expected"], evidence["found"]) == (sha256(data), sha256(bytes(changed)))
    states = {file.path: file.state for file in await listed(registry, model.id)}
    assert states["weights/model-00001.bin"] == model_pb2.MODEL_FILE_STATE_DAMAGED
    assert await download(registry, model.id, "config.json") == FILES["config.json"]
    await upload_all(registry, model.id, FILES)
    assert await download(registry, model.id, "weights/model-00001.bin") == data
    # One that is gone is found, too, and so is one that has become something else.
    path.unlink()
    assert await reason(download(registry, model.id, "weights/model-00001.bin")) == (
        "MODEL_FILE_DAMAGED"
    )
    path.symlink_to("/etc/hostname")
    assert await reason(download(registry, model.id, "weights/model-00001.bin")) == (
        "MODEL_FILE_DAMAGED"
    )
    await upload_all(registry, model.id, FILES)
    assert await download(registry, model.id, "weights/model-00001.bin") == data


async def test_a_stalled_upload_is_given_up_and_its_bytes_are_kept(tmp_path: Path) -> None:
    data = b"x" * 1000
    async with running_registry(tmp_path, stall_seconds=0.3) as registry:
        model = await uploaded_model(registry, {"a": data})
        call = registry.stub.UploadModelFile(metadata=registry.metadata())
        await call.write(header_of(model.id, "a", data))
        await call.write(chunks_of(data[:700])[0])
        code, why, evidence = await failure(call)
        assert (code, why, evidence["offset"]) == (CODE.ABORTED, "TRANSFER_INTERRUPTED", "700")
        assert await offer(registry, model.id, {"a": data}) == {"a": 700}
        silent = registry.stub.UploadModelFile(metadata=registry.metadata())
        assert (await failure(silent))[1] == "TRANSFER_INTERRUPTED"


async def test_a_newer_stream_takes_over(registry: Registry) -> None:
    data = b"x" * 1000
    model = await uploaded_model(registry, {"a": data})
    old = registry.stub.UploadModelFile(metadata=registry.metadata())
    await old.write(header_of(model.id, "a", data))
    await old.write(chunks_of(data[:700])[0])

    async def offset() -> int:
        return (await offer(registry, model.id, {"a": data}))["a"]

    async def came() -> bool:
        return await offset() == 700

    await eventually(came, "the first bytes")
    await upload(registry, model.id, "a", data, offset=700)
    assert (await failure(old))[1] == "TRANSFER_INTERRUPTED"


async def test_many_uploads_at_once(registry: Registry, tmp_path: Path) -> None:
    files = {f"{n:02}": random.Random(n).randbytes(300_000 + n) for n in range(12)}
    model = await uploaded_model(registry, files)
    await asyncio.gather(
        *(upload(registry, model.id, path, data, chunk=50_000) for path, data in files.items())
    )
    assert (await finalize(registry, model.id)).model.status == "Ready"
    got = await asyncio.gather(*(download(registry, model.id, path) for path in files))
    assert got == list(files.values())
    assert len(blobs(tmp_path)) == 12


async def test_the_quota(tmp_path: Path) -> None:
    async with running_registry(tmp_path, model_quota=10_000) as registry:
        first = await uploaded_model(registry, {"a": b"a" * 6000})
        await upload_all(registry, first.id, {"a": b"a" * 6000})
        second = await uploaded_model(registry, {"b": b"b" * 5000})
        code, why, evidence = await failure(upload(registry, second.id, "b", b"b" * 5000))
        assert (code, why) == (CODE.RESOURCE_EXHAUSTED, "STORAGE_FULL")
        assert evidence == {"needed": "5000", "used": "6000", "quota": "10000"}
        assert await download(registry, first.id, "a") == b"a" * 6000
        # What no model refers to makes room, and only then.
        await registry.call("DeleteModel", pb.DeleteModelRequest(id=first.id))
        assert len(blobs(tmp_path)) == 1
        await upload_all(registry, second.id, {"b": b"b" * 5000})
        assert list(blobs(tmp_path)) == [sha256(b"b" * 5000)]


async def test_the_least_recently_used_makes_room_first(tmp_path: Path) -> None:
    async with running_registry(tmp_path, model_quota=10_000) as registry:
        models = {}
        for name in "abc":
            data = {name: name.encode() * 3000}
            models[name] = await uploaded_model(registry, data)
            await upload_all(registry, models[name].id, data)
        assert await download(registry, models["a"].id, "a") == b"a" * 3000
        for model in models.values():
            await registry.call("DeleteModel", pb.DeleteModelRequest(id=model.id))
        new = await uploaded_model(registry, {"d": b"d" * 4000})
        await upload_all(registry, new.id, {"d": b"d" * 4000})
        assert set(blobs(tmp_path)) == {
            sha256(b"d" * 4000),
            sha256(b"c" * 3000),
            sha256(b"a" * 3000),
        }


async def test_uploads_that_are_under_way_count(tmp_path: Path) -> None:
    data, other = b"a" * 8000, b"b" * 3000
    async with running_registry(tmp_path, model_quota=10_000) as registry:
        model = await uploaded_model(registry, {"a": data, "b": other})
        call = registry.stub.UploadModelFile(metadata=registry.metadata())
        await call.write(header_of(model.id, "a", data))
        await call.write(chunks_of(data[:10])[0])

        async def came() -> bool:
            return (await offer(registry, model.id, {"a": data}))["a"] == 10

        await eventually(came, "the first bytes")
        assert await reason(upload(registry, model.id, "b", other)) == "STORAGE_FULL"
        call.cancel()

        async def fits() -> bool:
            try:
                await upload(registry, model.id, "b", other)
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(fits, "room after the cancel")


async def test_what_a_crash_leaves_is_put_right(tmp_path: Path) -> None:
    data = b"x" * 1000
    async with running_registry(tmp_path) as registry:
        model = await uploaded_model(registry, {"a": data, "b": b"kept"})
        await upload(registry, model.id, "b", b"kept")
        call = registry.stub.UploadModelFile(metadata=registry.metadata())
        await call.write(header_of(model.id, "a", data))
        await call.write(chunks_of(data[:400])[0])
        await call.done_writing()
        await failure(call)
    folder = tmp_path / "registry/models/blobs"
    orphan = folder / "files/00" / ("0" * 64)
    orphan.parent.mkdir()
    orphan.write_bytes(b"not written down")
    (folder / "incoming/fetched.1234").write_bytes(b"of a fetch")
    async with running_registry(tmp_path) as registry:
        assert set(blobs(tmp_path)) == {sha256(b"kept")}
        assert [path.name for path in parts(tmp_path)] == [f"{model.id}.{sha256(data)}"]
        assert await offer(registry, model.id, {"a": data, "b": b"kept"}) == {"a": 400}
        # What the crash has spoiled is found at the end, and begins again.
        parts(tmp_path)[0].write_bytes(b"y" * 400)
        assert await reason(upload(registry, model.id, "a", data, offset=400)) == "DIGEST_MISMATCH"
        await upload_all(registry, model.id, {"a": data, "b": b"kept"})
        assert await download(registry, model.id, "a") == data


async def test_a_stop_gives_uploads_up_at_once(tmp_path: Path) -> None:
    data = b"x" * 1000
    async with running_registry(tmp_path, drain_seconds=20.0) as registry:
        model = await uploaded_model(registry, {"a": data})
        # A connection of its own: that of the registry is closed before the registry stops.
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{registry.port}")
        call = rpc.RegistryServiceStub(channel).UploadModelFile(metadata=registry.metadata())
        await call.write(header_of(model.id, "a", data))
        await call.write(chunks_of(data[:400])[0])

        async def came() -> bool:
            return (await offer(registry, model.id, {"a": data}))["a"] == 400

        await eventually(came, "the first bytes")
        ended = asyncio.ensure_future(failure(call))
    assert (await ended)[1] == "SERVICE_STOPPING"
    await channel.close()


async def test_a_device_that_is_full(registry: Registry, tmp_path: Path) -> None:
    model = await uploaded_model(registry, {"a": b"abc"})
    part = tmp_path / "registry/models/blobs/incoming" / f"{model.id}.{sha256(b'abc')}"
    part.symlink_to("/dev/full")
    code, why, evidence = await failure(upload(registry, model.id, "a", b"abc"))
    assert (code, why, evidence) == (CODE.RESOURCE_EXHAUSTED, "STORAGE_FULL", {"disk": "full"})
    part.unlink()
    await upload_all(registry, model.id, {"a": b"abc"})
    assert await download(registry, model.id, "a") == b"abc"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
async def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "registry" / "models"
    disk.mkdir(parents=True)
    mount = await asyncio.create_subprocess_exec(
        "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)
    )
    assert await mount.wait() == 0
    try:
        data = random.Random(3).randbytes(5_000_000)
        async with running_registry(tmp_path) as registry:
            model = await uploaded_model(registry, {"a": data, "b": b"small"})
            code, why, evidence = await failure(upload(registry, model.id, "a", data))
            assert (code, why) == (CODE.RESOURCE_EXHAUSTED, "STORAGE_FULL")
            assert evidence == {"disk": "full"}
            there = (await offer(registry, model.id, {"a": data}))["a"]
            assert 0 < there <= 2 << 20
            assert parts(tmp_path)[0].read_bytes() == data[:there]
            # Everything else goes on, and with room so does the upload.
            grown = await asyncio.create_subprocess_exec(
                "mount", "-o", "remount,size=20m", str(disk)
            )
            assert await grown.wait() == 0
            await upload(registry, model.id, "a", data, offset=there)
            await upload_all(registry, model.id, {"a": data, "b": b"small"})
            assert await download(registry, model.id, "a") == data
    finally:
        unmount = await asyncio.create_subprocess_exec("umount", str(disk))
        assert await unmount.wait() == 0
