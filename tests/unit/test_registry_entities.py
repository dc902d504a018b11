from __future__ import annotations

from datetime import UTC, datetime

import pytest

from podbay.schema import convert, platform, requests
from podbay.schema.serving import ServingOptions
from podbay.v1 import errors_pb2
from podbay_kit import resource_labels
from podbay_kit.errors import ServiceError
from podbay_registry import entities
from podbay_registry.kinds import MODELS, SERVICES
from tests.support.registry import image_service, local_service, mock_model

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = datetime(2030, 1, 2, tzinfo=UTC)


def model() -> platform.Model:
    return entities.new_model(convert.from_proto(mock_model()), "m1", NOW, fetching=True)


def test_services_carry_their_options_and_their_model() -> None:
    serving = ServingOptions(stop_grace=1.5)
    foreign = entities.embedded(model())
    for request in (convert.from_proto(local_service()), convert.from_proto(image_service())):
        made = entities.new_service(request, "s1", NOW, serving=serving, model=foreign)
        assert made.model == foreign
        assert ServingOptions.from_annotations(made.annotations) == serving
        assert made.runner is not None
        # What is stored reads back without loss.
        assert SERVICES.load(SERVICES.dump(made)) == made
    assert MODELS.load(MODELS.dump(model())) == model()


def test_a_deleted_model_is_embedded_no_more() -> None:
    with pytest.raises(ServiceError) as caught:
        entities.embedded(entities.deleted(model(), NOW))
    assert caught.value.reason == errors_pb2.ERROR_REASON_REFERENCE_DELETED


def test_deleting_twice_changes_nothing() -> None:
    gone = entities.deleted(model(), NOW)
    assert (gone.status, gone.reason, gone.lastTransitionTime) == ("Deleted", "DeleteCommand", NOW)
    assert entities.deleted(gone, LATER) == gone
    assert entities.status_of(gone) == platform.Status(status="Deleted", reason="DeleteCommand")


def test_edits_leave_the_original_alone() -> None:
    first = model()
    labelled = resource_labels.labelled(
        first, requests.LabelsEditRequest(labels={"a": "1", "b": None})
    )
    edit = requests.DocumentationEditRequest(
        documentation=requests.DocumentationEdit(title="T", summary=None)
    )
    documented = entities.documented(labelled, edit)
    assert first == model()
    assert labelled.labels == {"a": "1"}
    assert documented.metadata.documentation == platform.DocumentationBase(title="T")
    cleared = requests.DocumentationEditRequest(
        documentation=requests.DocumentationEdit(title=None)
    )
    assert entities.documented(documented, cleared).metadata == first.metadata
