"""Backups of a registry that runs: files of models that change, are damaged, or are gone."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.backup import run_backup
from podbay_registry.backup import BACKUP
from podbay_registry.file_keeper import MARKER
from tests.support.model_files import download, sha256, upload_all, uploaded_model
from tests.support.registry import Registry, running_registry

FILES = {"a.bin": random.Random(1).randbytes(300_000), "b.bin": b"b", "c.bin": b"c" * 1000}


async def ready(registry: Registry, name: str = "hal") -> str:
    model = await uploaded_model(registry, FILES, name=name)
    await upload_all(registry, model.id, FILES)
    await registry.call("FinalizeModel", pb.FinalizeModelRequest(id=model.id))
    return model.id


async def backup(action: str, folder: Path, data: Path) -> int:
    arguments = [action, str(folder), "--data-dir", str(data / "registry")]
    return await asyncio.to_thread(run_backup, BACKUP, arguments)


def blobs(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in (folder / "models/blobs/files").glob("*/*")}


async def test_a_copy_serves_the_same_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, other = tmp_path / "saved", tmp_path / "other"
    async with running_registry(tmp_path) as registry:
        model = await ready(registry)
        assert await backup("save", saved, tmp_path) == 0
        token = registry.admin_token
        # Where something is, nothing is put.
        assert await backup("save", saved, tmp_path) == 2
        assert await backup("load", saved, tmp_path) == 2
        assert capsys.readouterr().err.count("is not empty, and nothing was changed") == 2
    assert set(blobs(saved)) == {sha256(data) for data in FILES.values()}
    assert await backup("load", saved, other) == 0
    assert (other / "registry/models" / MARKER).read_text() == (
        tmp_path / "registry/models" / MARKER
    ).read_text()
    (other / "admin-token").write_text(token)
    (other / "admin-token").chmod(0o600)
    async with running_registry(other) as registry:
        for path, data in FILES.items():
            assert await download(registry, model, path) == data


async def test_what_is_damaged_or_gone_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, other = tmp_path / "saved", tmp_path / "other"
    async with running_registry(tmp_path) as registry:
        await ready(registry)
        files = blobs(tmp_path / "registry")
        damaged, gone = sha256(FILES["a.bin"]), sha256(FILES["b.bin"])
        files[damaged].chmod(0o600)
        files[damaged].write_bytes(b"another")
        files[gone].unlink()
        assert await backup("save", saved, tmp_path) == 3
    told = capsys.readouterr().err
    assert f"{damaged} holds {sha256(b'another')}" in told
    assert f"{gone} is gone" in told
    assert set(blobs(saved)) == {sha256(FILES["c.bin"])}
    assert await backup("load", saved, other) == 3
    assert gone in capsys.readouterr().err


async def test_a_backup_that_was_damaged_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, other = tmp_path / "saved", tmp_path / "other"
    async with running_registry(tmp_path) as registry:
        await ready(registry)
        assert await backup("save", saved, tmp_path) == 0
    database = saved / "registry.sqlite3"
    good = database.read_bytes()
    database.write_bytes(good[:5000] + b"\xff" + good[5001:])
    assert await backup("load", saved, other) == 2
    assert "is not what was saved" in capsys.readouterr().err
    database.write_bytes(good)
    (saved / "backup.json").write_text("{}")
    assert await backup("load", saved, other) == 2
    assert "is no whole backup" in capsys.readouterr().err
    assert not other.exists()


async def test_models_that_come_and_go_during_a_backup(tmp_path: Path) -> None:
    """What the copy of the database refers to is in the backup, whatever happens meanwhile."""
    # With a quota, what no model refers to goes as soon as there is need of its room.
    async with running_registry(tmp_path, model_quota=400_000) as registry:
        going = True

        async def churn() -> None:
            number = 0
            while going:
                number += 1
                data = {"x.bin": os.urandom(150_000)}
                model = await uploaded_model(registry, data, name=f"m{number}")
                await upload_all(registry, model.id, data)
                await registry.call("FinalizeModel", pb.FinalizeModelRequest(id=model.id))
                await registry.call("DeleteModel", pb.DeleteModelRequest(id=model.id))

        kept = await uploaded_model(registry, {"k": b"kept"})
        await upload_all(registry, kept.id, {"k": b"kept"})
        churning = asyncio.create_task(churn())
        try:
            for turn in range(4):
                folder = tmp_path / f"saved-{turn}"
                # Files that keep vanishing are told; those of models that live never do.
                assert await backup("save", folder, tmp_path) in (0, 3)
                assert sha256(b"kept") in blobs(folder)
                for name, path in blobs(folder).items():
                    assert sha256(path.read_bytes()) == name
        finally:
            going = False
            await churning
