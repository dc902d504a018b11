"""What statuses mean."""

import pytest

from podbay.schema.platform import (
    EntityStatus,
    EntityStatusReason,
    InferenceServiceStatus,
    InferenceSessionStatus,
    InferenceSessionStatusReason,
    ModelStatus,
    is_status_failure,
    is_status_success,
    is_status_terminal,
)


@pytest.mark.parametrize(
    ("statuses", "terminal", "success", "failure"),
    [
        (["Ready", "Complete", "Approved"], True, True, False),
        (["Error", "Failed", "Denied"], True, False, True),
        (["Terminated", "Deleted"], True, False, False),
        (["Created", "Schedulable", "Admitted", "WaitingForUpload", "", "x"], False, False, False),
    ],
)
def test_predicates(statuses: list[str], terminal: bool, success: bool, failure: bool) -> None:
    for status in statuses:
        assert is_status_terminal(status) is terminal
        assert is_status_success(status) is success
        assert is_status_failure(status) is failure


def test_constants_are_the_platforms() -> None:
    assert [*ModelStatus] == ["Created", "Admitted", "Ready", "Error"]
    assert [*InferenceServiceStatus] == ["Created", "Admitted", "Ready", "Error"]
    assert [*InferenceSessionStatus] == ["Created", "Admitted", "Terminated", "Error"]
    reasons = ["QuotaLimit", "TerminateCommand", "SessionExpired"]
    assert [*InferenceSessionStatusReason] == reasons
    assert f"{EntityStatus.ready} {EntityStatusReason.expired}" == "Ready Expired"
