"""The data folder of `podbay up`: its lock, its record, its secrets, its logs."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from podbay.local.faults import LocalError
from podbay.local.logfile import LogFile
from podbay.local.processes import ProcessIdentity
from podbay.local.state import DataDir, DataDirLock, ServiceRecord, UpRecord
from tests.support.small_disk import small_disk


def make_record(data: DataDir, identity: ProcessIdentity) -> UpRecord:
    return UpRecord(
        pid=identity.pid,
        create_time=identity.create_time,
        state="running",
        started=datetime(2030, 1, 1, tzinfo=UTC),
        detached=False,
        admin_token_file=data.admin_token_file,
        services=[ServiceRecord(name="registry", endpoint="127.0.0.1:7101", state="running")],
    )


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path / "data")
    data.prepare()
    return data


def test_the_folder_and_its_secret_belong_to_their_owner(data: DataDir):
    assert mode_of(data.path) == 0o700
    assert mode_of(data.service_token_file) == 0o600
    assert len(data.service_token_file.read_text().strip()) >= 32


def test_the_service_token_is_made_once(data: DataDir):
    first = data.service_token_file.read_text()
    data.prepare()
    assert data.service_token_file.read_text() == first


def test_a_folder_that_cannot_be_made_is_refused_with_a_way_out(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError) as caught:
        DataDir(tmp_path / "file" / "data").prepare()
    assert caught.value.reason == "DATA_DIR_NOT_WRITABLE"
    assert "--data-dir" in caught.value.way_out


@pytest.mark.needs_small_disk
def test_a_folder_that_takes_no_files_any_more_is_refused_with_a_way_out(tmp_path: Path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        data = DataDir(tmp_path / "disk" / "data")
        data.prepare()
        disk.fill()
        with pytest.raises(LocalError, match="No space left") as caught:
            DataDirLock(data).acquire()
        assert caught.value.reason == "DATA_DIR_NOT_WRITABLE"
        disk.free()
        disk.lock()
        for refused in (data.prepare, DataDirLock(data).acquire):
            with pytest.raises(LocalError, match="Read-only") as caught:
                refused()
            assert caught.value.reason == "DATA_DIR_NOT_WRITABLE"
            assert "--data-dir" in caught.value.way_out


def test_a_second_holder_is_refused_and_told_of_the_first(data: DataDir):
    with DataDirLock(data):
        with pytest.raises(LocalError) as caught:
            DataDirLock(data).acquire()
        assert caught.value.reason == "DATA_DIR_IN_USE"
        assert f"process {os.getpid()}" in caught.value.message
        assert "podbay status" in caught.value.way_out
    with DataDirLock(data):
        pass


def test_the_record_is_private_and_comes_back_as_it_was(data: DataDir):
    record = make_record(data, ProcessIdentity.own())
    data.write_record(record)
    assert mode_of(data.record_file) == 0o600
    assert data.read_record() == record
    assert json.loads(data.record_file.read_text())["createTime"] == record.create_time


def test_a_damaged_record_is_no_record(data: DataDir):
    data.record_file.write_text('{"pid": ')
    assert data.read_record() is None


def test_only_the_process_that_wrote_the_record_counts_as_running(data: DataDir):
    own = ProcessIdentity.own()
    data.write_record(make_record(data, own))
    assert data.running() is not None
    # The id is in use, by a process that was created at another time.
    data.write_record(make_record(data, ProcessIdentity(own.pid, own.create_time - 100)))
    assert data.running() is None


def test_a_log_shows_the_last_lines_of_the_present_run_only(tmp_path: Path):
    log = LogFile(tmp_path / "a.log")
    for run in ("first", "second"):
        handle = log.open_for_run()
        os.write(handle, "".join(f"{run} {i}\n" for i in range(3)).encode())
        os.close(handle)
    assert log.tail(2) == ("second 1", "second 2")
    assert log.tail(10) == ("second 0", "second 1", "second 2")


def test_a_log_is_capped_while_its_service_writes_on(tmp_path: Path):
    log = LogFile(tmp_path / "a.log", limit=100)
    handle = log.open_for_run()
    os.write(handle, b"x" * 101 + b"\n")
    assert log.cap()
    os.write(handle, b"after\n")
    os.close(handle)
    assert log.path.read_bytes() == b"after\n"
    assert (tmp_path / "a.log.1").stat().st_size == 102
    assert log.tail(5) == ("after",)
    assert not log.cap()
