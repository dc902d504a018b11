"""What every test may rely on."""

from __future__ import annotations

import os
import shutil
import signal
from functools import partial
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support.docker.needs import missing_engine
from tests.support.own_names import missing_unshare
from tests.support.platform import RUNNING
from tests.support.postgresql import missing_postgresql
from tests.support.reference import ReferenceUnavailableError, reference_python
from tests.support.small_disk import missing_mount

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


# A shell starts what runs in the background with SIGINT ignored, and each program would inherit
# that: those which tests interrupt would not hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ("tests.support.databases", "tests.support.docker.fixtures")


def _no_grpcurl() -> str | None:
    if shutil.which("grpcurl") is None:
        install = "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
        return f"grpcurl is not installed: {install}"
    return None


def _no_git_lfs() -> str | None:
    missing = [name for name in ("git", "git-lfs") if shutil.which(name) is None]
    return (
        f"{' and '.join(missing)} not installed: apt-get install git git-lfs" if missing else None
    )


def _no_reference(name: str) -> str | None:
    try:
        reference_python(name)
    except ReferenceUnavailableError as error:
        return str(error)
    return None


# No deadlines: speed belongs into benchmarks. In CI the cases are the same each time: a rare case
# is found where somebody can look into it, and fails no change that has nothing to do with it.
hypothesis.settings.register_profile("podbay", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "podbay")

# What a marker asks for, and what says why it is not there.
_NEEDS: dict[str, Callable[[], str | None]] = {
    "needs_git_lfs": _no_git_lfs,
    "needs_grpcurl": _no_grpcurl,
    "needs_reference": partial(_no_reference, "reference"),
    "needs_reference_client": partial(_no_reference, "reference-client"),
    "needs_reference_audit": partial(_no_reference, "reference-audit"),
    "needs_docker": missing_engine,
    "needs_postgresql": missing_postgresql,
    "needs_small_disk": missing_mount,
    "needs_own_names": missing_unshare,
}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Skip what needs a tool that is not there, with a clear line; fail instead where asked.

    What is needed is looked for here, before the first test: making an environment takes longer
    than a test may.
    """
    if session.config.option.collectonly:
        return
    for marker, missing in _NEEDS.items():
        items = [item for item in session.items if item.get_closest_marker(marker)]
        why = missing() if items else None
        if why is None or os.environ.get("PODBAY_TEST_REQUIRE_ALL") == "1":
            continue
        for item in items:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a test that fails what the platforms say that run: that may be why."""
    report = yield
    if report.failed:
        for platform in RUNNING:
            report.sections.append((f"podbay up in {platform.data_dir}", platform.output()))
    return report
