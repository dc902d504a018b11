"""The life of a model, and what is fetched for it: pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from podbay.schema import platform
from podbay.v1 import errors_pb2
from podbay_kit.blob_files import Digests
from podbay_kit.errors import ServiceError
from podbay_registry import model_life
from podbay_registry.fetch_plan import (
    FetchFailure,
    Found,
    check_paths,
    job_of,
    lay_in,
    plan_fetches,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = datetime(2030, 1, 2, tzinfo=UTC)
HUB = {
    "kind": "HuggingFaceHub",
    "huggingFaceHub": {"repoID": "o/n", "revision": "r", "allowPatterns": ["*.json"]},
}
GIT = {"kind": "GitLFS", "gitLFS": {"url": "https://example.com/a.git"}}
UPLOAD, MOCK = {"kind": "Upload"}, {"kind": "Mock"}
CACHE = {"kind": "HuggingFaceCache", "huggingFaceCache": {"repoID": "o/n", "revision": "r"}}


def volume(*files: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Volume", "volume": {"files": list(files)}}


def model(
    source: dict[str, Any] = HUB,
    artifact: dict[str, Any] | None = None,
    status: str = "Created",
    **fields: Any,
) -> platform.Model:
    return platform.Model.model_validate(
        {
            "id": "m",
            "account": "a",
            "creationTime": NOW,
            "status": status,
            "name": "m",
            "source": source,
            "artifact": artifact or volume(),
            "resources": {},
            **fields,
        }
    )


def digests(size: int = 1, sha256: str = "0" * 64, md5: str = "m") -> Digests:
    return Digests(size, sha256, md5)


@pytest.mark.parametrize(
    ("source", "artifact", "fetching", "status", "said"),
    [
        (MOCK, MOCK, True, "Ready", None),
        (HUB, MOCK, True, "Ready", "Nothing is fetched"),
        (HUB, CACHE, True, "Created", "Waiting to be fetched"),
        (GIT, volume(), True, "Created", "Waiting to be fetched"),
        (GIT, volume(), False, "Created", "--no-fetch"),
        (UPLOAD, volume(), False, "WaitingForUpload", "podbay model upload"),
    ],
)
def test_how_models_begin(
    source: Any, artifact: Any, fetching: bool, status: str, said: str | None
) -> None:
    given = model(source, artifact)
    start = model_life.start_of(given.source, given.artifact, fetching=fetching)
    assert start.status == status
    assert (start.message is None) if said is None else (said in (start.message or ""))


def test_a_fetch_moves_a_model_and_no_other() -> None:
    going = model_life.admitted(model(), "Fetching.", LATER)
    assert (going.status, going.message, going.lastTransitionTime) == (
        "Admitted",
        "Fetching.",
        LATER,
    )
    assert model_life.is_to_fetch(going)
    done = model_life.fetched(going, LATER)
    assert (done.status, done.reason, done.message) == ("Ready", None, None)
    failed = model_life.fetch_failed(going, "x" * 9000, LATER)
    assert (failed.status, failed.reason) == ("Error", "FetchFailed")
    assert len(failed.message or "") == 2000
    for ended in (done, failed, model(status="Deleted"), model(UPLOAD, status="WaitingForUpload")):
        assert not model_life.is_to_fetch(ended)
        for moved in (
            model_life.admitted(ended, "x", NOW),
            model_life.fetched(ended, NOW),
            model_life.fetch_failed(ended, "x", NOW),
        ):
            assert moved == ended
    # The same again is no change: nobody is told of it.
    assert model_life.admitted(going, "Fetching.", NOW) is going


def test_finalizing_needs_every_file() -> None:
    files = [{"path": "a", "size": 1, "digest": {"md5": "m"}}, {"path": "b", "size": 2}]
    waiting = model(UPLOAD, volume(*files), "WaitingForUpload")
    good = {"a": digests(), "b": digests(2, md5="other")}
    ready = model_life.finalized(waiting, good, LATER)
    assert ready.status == "Ready"
    assert model_life.finalized(ready, {}, LATER) is ready
    for wrong in (
        {},
        {"a": digests()},
        {**good, "b": digests(3)},
        {**good, "a": digests(md5="x")},
    ):
        with pytest.raises(ServiceError) as caught:
            model_life.finalized(waiting, wrong, LATER)
        assert caught.value.reason == errors_pb2.ERROR_REASON_MODEL_FILES_MISSING
    many = model(
        UPLOAD, volume(*({"path": f"{n}", "size": 1} for n in range(50))), "WaitingForUpload"
    )
    with pytest.raises(ServiceError, match="and 40 more"):
        model_life.finalized(many, {}, LATER)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (model(status="Ready"), errors_pb2.ERROR_REASON_MODEL_NOT_UPLOADABLE),
        (model(UPLOAD, status="Error"), errors_pb2.ERROR_REASON_MODEL_NOT_UPLOADABLE),
        (model(UPLOAD, status="Deleted"), errors_pb2.ERROR_REASON_REFERENCE_DELETED),
    ],
)
def test_models_that_cannot_be_finalized(given: platform.Model, reason: int) -> None:
    with pytest.raises(ServiceError) as caught:
        model_life.finalized(given, {}, NOW)
    assert caught.value.reason == reason


def test_a_model_that_is_not_ready_says_what_to_do() -> None:
    error = model_life.not_ready(model(status="Error", reason="FetchFailed", message="No hub."))
    assert error.metadata == {"status": "Error", "reason": "FetchFailed", "message": "No hub."}
    assert "create it again" in error.message
    assert "Wait" in model_life.not_ready(model()).message
    waiting = model(UPLOAD, status="WaitingForUpload")
    assert "podbay model upload" in model_life.not_ready(waiting).message


def test_jobs() -> None:
    job = job_of(model(), "/f", endpoint="http://h", token="secret")
    assert (job.kind, job.repo, job.revision, job.allow_patterns) == (
        "hub",
        "o/n",
        "r",
        ["*.json"],
    )
    assert "secret" not in repr(job) + str(job)
    job = job_of(model(GIT), "/f", endpoint=None, token="secret")
    assert (job.kind, job.repo, job.revision) == ("git", "https://example.com/a.git", None)
    assert job.token is None
    assert job_of(model(GIT, CACHE), "/f", endpoint=None, token=None).revision == "r"
    with pytest.raises(FetchFailure):
        job_of(model(UPLOAD), "/f", endpoint=None, token=None)
    known = {"kind": "GitLFS", "gitLFS": {"url": "https://me:hunter2@example.com/a.git"}}
    with pytest.raises(FetchFailure) as caught:
        job_of(model(known), "/f", endpoint=None, token=None)
    assert "hunter2" not in caught.value.message


def test_which_fetches_start_and_stop() -> None:
    models = [model().model_copy(update={"id": name}) for name in "abcd"]
    plan = plan_fetches(models, ["b", "gone"], 3)
    assert [each.id for each in plan.start] == ["a"]
    assert plan.stop == {"gone"}
    assert plan_fetches(models, ["x", "y", "z"], 2).start == ()
    assert [each.id for each in plan_fetches(models, [], 9).start] == list("abcd")


def test_where_fetched_files_lie() -> None:
    found = [Found("a/b", digests())]
    assert set(lay_in(model(GIT), found)) == {"a/b"}
    assert set(lay_in(model(artifact=CACHE), found)) == {"models--o--n/snapshots/r/a/b"}


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a:b", "a/../b", "con", ""])
def test_paths_that_lead_elsewhere(path: str) -> None:
    for artifact in (volume(), CACHE):
        with pytest.raises(FetchFailure, match="not portable"):
            check_paths(model(artifact=artifact), ["fine", path])
    check_paths(model(), ["fine", "a/b.c"])


def test_what_a_model_declares_must_be_there() -> None:
    declared = volume({"path": "a", "size": 1, "digest": {"md5": "m"}}, {"path": "b", "size": 1})
    with pytest.raises(FetchFailure, match="'b' is missing"):
        lay_in(model(artifact=declared), [Found("a", digests())])
    with pytest.raises(FetchFailure, match="2 bytes"):
        lay_in(model(artifact=declared), [Found("a", digests()), Found("b", digests(2))])
    with pytest.raises(FetchFailure, match="MD5"):
        lay_in(model(artifact=declared), [Found("a", digests(md5="x")), Found("b", digests())])
    assert lay_in(model(artifact=declared), [Found("a", digests()), Found("b", digests())])
