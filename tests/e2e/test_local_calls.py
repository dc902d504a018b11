"""The calls of a local platform: the same semantics as elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from podbay.compat.local import DyffLocalPlatform
from podbay.errors import NotFoundError, PodbayError
from podbay.local import LocalPlatform, mocks
from podbay.schema.requests import DocumentationEdit, DocumentationEditRequest

TEXT = {"text": "Open the pod bay doors, Hal!"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    with LocalPlatform(tmp_path_factory.mktemp("calls")) as platform:
        yield platform


@pytest.fixture(scope="module")
def compat(platform: LocalPlatform) -> Iterator[DyffLocalPlatform]:
    """The same installation, by the platform's names."""
    with DyffLocalPlatform(platform.storage_root) as compat:
        yield compat


class Both(mocks.Mock):
    """Takes anything; answers with what came, at which endpoint."""

    def infer(self, endpoint: str, request: Any) -> Any:
        return [{"endpoint": endpoint, "request": request}, {"second": True}]


def test_calls_by_the_id_of_a_session(platform: LocalPlatform, compat: DyffLocalPlatform):
    service = platform.inferenceservices.create_mock(
        Both,
        here=True,
        # Pipelines are for clients with the interface: a call by id goes past them.
        interface={
            **Both().interface.model_dump(mode="json", by_alias=True),
            "inputPipeline": [{"kind": "Drop", "configuration": {"fields": ["text"]}}],
        },
    )
    made = compat.inferencesessions.create({"account": "local", "inferenceService": service.id})
    session_id = made.inferencesession.id
    # The platform's sessions are ready at once; here the call waits for that.
    answer = compat.inferencesessions.infer(session_id, "generate", TEXT)
    assert answer == [{"endpoint": "generate", "request": TEXT}, {"second": True}]
    calls = platform.inferencesessions
    assert calls.infer(session_id, "/other", [1, 2])[0] == {"endpoint": "other", "request": [1, 2]}
    assert calls.infer(session_id, "generate", TEXT) == answer
    with compat.inferencesessions.client(
        session_id, "any token", interface=service.interface
    ) as client:
        (with_pipeline, _) = client.infer(TEXT)
        assert with_pipeline["request"] == {}
    # One endpoint without an interface, and one that wins over the interface's.
    for options in ({}, {"interface": service.interface}):
        with compat.inferencesessions.client(session_id, "", endpoint="mine", **options) as client:
            assert client.infer({"n": 1})[0]["endpoint"] == "mine"
    calls.terminate(session_id)
    with pytest.raises(PodbayError) as caught:
        calls.infer(session_id, "generate", TEXT)
    assert caught.value.reason == "SESSION_TERMINATED"
    with pytest.raises(NotFoundError):
        calls.infer("0" * 32, "generate", TEXT)


def test_what_is_asked_for_is_kept(platform: LocalPlatform):
    service = platform.inferenceservices.create_mock(mocks.Echo)
    made = platform.inferencesessions.create(
        {
            "account": "local",
            "inferenceService": service.id,
            "replicas": 2,
            "expires": "2099-01-01T00:00:00Z",
        }
    )
    session = platform.inferencesessions.get(made.inferencesession.id)
    assert session.replicas == 2
    assert session.expires is not None
    assert session.expires.year == 2099
    assert platform.inferencesessions.delete(session.id).status == "Deleted"
    assert platform.inferencesessions.get(session.id).status == "Deleted"
    with pytest.raises(PodbayError) as caught:
        platform.inferencesessions.infer(session.id, "echo", TEXT)
    assert caught.value.reason == "SESSION_TERMINATED"
    assert platform.inferenceservices.delete(service.id).status == "Deleted"
    with pytest.raises(PodbayError) as caught:
        platform.inferencesessions.create({"account": "local", "inferenceService": service.id})
    assert caught.value.reason == "REFERENCE_DELETED"
    for group in (platform.models, platform.inferenceservices, platform.inferencesessions):
        for call in (group.get, group.delete):
            with pytest.raises(NotFoundError):
                call("../admin-token")


def test_null_deletes_documentation(platform: LocalPlatform):
    service = platform.inferenceservices.create_mock(mocks.Echo)
    edit = platform.inferenceservices.edit_documentation
    edit(service.id, {"documentation": {"title": "A title", "summary": "A summary"}})
    # By a request object as by its JSON form; what is not named stays.
    request = DocumentationEditRequest(documentation=DocumentationEdit(title=None))
    assert edit(service.id, request).title is None
    found = platform.inferenceservices.documentation(service.id)
    assert (found.title, found.summary) == (None, "A summary")
    edit(service.id, {"documentation": {"summary": None}})
    assert platform.inferenceservices.documentation(service.id).summary is None
    with pytest.raises(NotFoundError):
        edit("0" * 32, {"documentation": {"title": "of nothing"}})
