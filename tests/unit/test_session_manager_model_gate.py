"""What keeps replicas from being placed by their models, and how far a start is."""

from __future__ import annotations

import pytest

from podbay_session_manager.drivers.contract import StartProgress
from podbay_session_manager.model_gate import ModelState, Stand, gate
from podbay_session_manager.records import DataMount, Reason, ServiceSpec
from podbay_session_manager.texts import progress_text

COMING = ModelState(Stand.COMING, "Admitted", "1 of 3 files.")
FAILED = ModelState(Stand.FAILED, "Error", "There is no such repository.")
OPEN = ModelState(Stand.OPEN, "Ready")
ASKED = ModelState(Stand.ASKED)


def service(*models: str) -> ServiceSpec:
    mounts = tuple(DataMount(name, f"/{name}", "Model", name) for name in models)
    return ServiceSpec(kind="container", name="s", mounts=mounts)


@pytest.mark.parametrize(
    ("states", "reason", "model"),
    [
        ({}, None, ""),
        ({"a": OPEN, "b": OPEN}, None, ""),
        ({"a": OPEN, "b": COMING}, Reason.MODEL_NOT_READY, "b"),
        ({"a": ASKED, "b": COMING}, Reason.MODEL_NOT_READY, "a"),
        # What never comes decides, whatever the others do.
        ({"a": COMING, "b": FAILED}, Reason.FETCH_FAILED, "b"),
    ],
)
def test_the_models_of_a_service_decide(
    states: dict[str, ModelState], reason: Reason | None, model: str
) -> None:
    held = gate(service("a", "b"), states)
    if reason is None:
        assert held is None
        return
    assert held is not None
    assert (held.reason, held.model) == (reason, model)
    assert states[model].message in held.message
    assert model in held.message


def test_other_mounts_keep_nothing_back() -> None:
    assert gate(ServiceSpec(kind="container", name="s"), {"a": FAILED}) is None


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (None, ""),
        (StartProgress("pulling the image x"), "pulling the image x"),
        (StartProgress("copying", 512, 1000), "copying: 512 of 1000 bytes (51 %)"),
        (StartProgress("copying", 12 << 20, 48 << 20), "copying: 12.0 of 48.0 MiB (25 %)"),
        (StartProgress("copying", 3 << 30, 2 << 30), "copying: 2.0 of 2.0 GiB (100 %)"),
    ],
)
def test_how_far_a_start_is(progress: StartProgress | None, text: str) -> None:
    assert progress_text(progress) == text
