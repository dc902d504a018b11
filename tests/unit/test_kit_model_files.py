"""Files by their digests, and folders of links to them, on a real disk."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from pathlib import Path

import pytest

from podbay_kit import blob_files
from podbay_kit.blob_files import (
    BlobFolder,
    ClosingError,
    DamagedFileError,
    Hasher,
    Verifier,
    remove_tree,
)
from podbay_kit.model_layout import LaidFile, lay_out, plan_layout

DATA = b"open the pod bay doors" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> BlobFolder:
    made = BlobFolder(tmp_path / "blobs")
    made.prepare()
    return made


def put(folder: BlobFolder, data: bytes) -> str:
    part = folder.part("new")
    part.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    folder.settle(part)
    folder.keep(part, sha256)
    return sha256


def age(path: Path) -> None:
    """Let the last change of a file be some time ago."""
    old = time.time() - 100
    os.utime(path, (old, old))


def test_digests() -> None:
    hasher = Hasher()
    hasher.update(DATA[:7])
    hasher.update(DATA[7:])
    found = hasher.digests()
    assert (found.size, found.sha256) == (len(DATA), SHA256)
    assert found.md5 == base64.b64encode(hashlib.md5(DATA, usedforsecurity=False).digest()).decode()


def test_a_file_is_kept_and_opened(folder: BlobFolder) -> None:
    assert put(folder, DATA) == SHA256
    assert list(folder.stored()) == [(SHA256, len(DATA))]
    assert folder.size(SHA256) == len(DATA)
    assert list(folder.parts()) == []
    with folder.open_verified(SHA256) as file:
        assert file.read() == DATA
    folder.remove(SHA256)
    assert folder.size(SHA256) is None
    with pytest.raises(DamagedFileError) as caught:
        folder.open_verified(SHA256)
    assert (caught.value.sha256, caught.value.found) == (SHA256, "")


@pytest.mark.parametrize("name", ["", "A" * 64, "../" + "a" * 61, "a" * 63, "a" * 64 + "\n"])
def test_a_path_needs_a_digest(folder: BlobFolder, name: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        folder.path(name)


def test_what_changed_is_read_again(folder: BlobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_files, "_RACY_NS", -(10**12))
    put(folder, DATA)
    path = folder.path(SHA256)
    folder.open_verified(SHA256).close()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"X")
    with pytest.raises(DamagedFileError):
        folder.open_verified(SHA256)
    # Also where somebody sets the time back.
    with path.open("r+b") as file:
        file.write(DATA[:1])
    folder.open_verified(SHA256).close()
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedFileError):
        folder.open_verified(SHA256)


def test_what_has_not_changed_is_trusted_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, reads = [0.0], []
    update_from = Hasher.update_from

    def counted(self: Hasher, *args: object, **kwargs: object) -> None:
        reads.append(1)
        update_from(self, *args, **kwargs)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(Hasher, "update_from", counted)
    monkeypatch.setattr(blob_files, "_RACY_NS", -(10**12))
    verifier = Verifier(600.0, monotonic=lambda: now[0])
    (tmp_path / "a").write_bytes(DATA)
    for expected, at in ((1, 0.0), (1, 599.0), (2, 601.0), (2, 1000.0)):
        now[0] = at
        verifier.open(tmp_path / "a", SHA256).close()
        assert len(reads) == expected
    # The memory is of one digest.
    with pytest.raises(DamagedFileError):
        verifier.open(tmp_path / "a", "0" * 64)


def test_a_file_that_has_just_changed_is_not_trusted(tmp_path: Path) -> None:
    verifier = Verifier()
    (tmp_path / "a").write_bytes(DATA)
    verifier.open(tmp_path / "a", SHA256).close()
    assert verifier._seen == {}


def test_links_and_folders_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(DATA)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe", "real/below"):
        with pytest.raises(DamagedFileError):
            Verifier().open(tmp_path / name, SHA256)


def test_hashing_ends_when_the_process_does(folder: BlobFolder) -> None:
    put(folder, DATA)
    folder.verifier.closing.set()
    with pytest.raises(ClosingError):
        folder.open_verified(SHA256)


def test_plans_of_folders() -> None:
    plan = plan_layout([LaidFile("b/c/d", "1", 1), LaidFile("a", "2", 2), LaidFile("b/e", "1", 1)])
    assert plan.folders == ("b", "b/c")
    assert [file.path for file in plan.files] == ["a", "b/c/d", "b/e"]
    assert plan.content == {"1": 1, "2": 2}
    assert plan_layout([]).folders == ()


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (["a", "a"], "twice"),
        (["a", "a/b"], "and of a folder"),
        (["../a"], "relative"),
        (["/a"], "relative"),
        (["a/./b"], "relative"),
        (["nul"], "device"),
    ],
)
def test_folders_that_cannot_be(paths: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        plan_layout([LaidFile(path, "1", 1) for path in paths])


def test_a_folder_is_made_whole(folder: BlobFolder, tmp_path: Path) -> None:
    sha256 = put(folder, DATA)
    plan = plan_layout([LaidFile("a/b/c", sha256, len(DATA)), LaidFile("d", sha256, len(DATA))])
    target = tmp_path / "model"
    # What an earlier try has left does not matter.
    draft = tmp_path / ".model.draft"
    (draft / "x").mkdir(parents=True)
    (draft / "x").chmod(0o500)
    lay_out(plan, folder.path, target)
    assert not draft.exists()
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == [
        *("a", "a/b", "a/b/c", "d")
    ]
    assert (target / "a/b/c").samefile(folder.path(sha256))
    with pytest.raises(OSError, match="exists|not empty"):
        lay_out(plan, folder.path, target)
    remove_tree(target)
    assert not target.exists()
    assert folder.path(sha256).read_bytes() == DATA
    remove_tree(target)
