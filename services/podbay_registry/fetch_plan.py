"""What is fetched, from where, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from podbay.schema import platform
from podbay.schema.checks import check_portable_path
from podbay_kit.blob_files import Digests

__all__ = [
    "FetchFailure",
    "FetchJob",
    "FetchPlan",
    "Found",
    "check_paths",
    "job_of",
    "lay_in",
    "plan_fetches",
]

_SHOWN: Final = 5


class FetchFailure(Exception):  # noqa: N818 # it is told as the outcome of a fetch
    """A fetch failed.

    Attributes:
        message: What happened, the evidence, and the way out.
        transient: Whether another try in a moment may go well.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.transient = transient


@dataclass(frozen=True, slots=True)
class FetchJob:
    """What the process that fetches is told.

    Attributes:
        kind: "hub" or "git".
        folder: Where the files go.
        repo: The repository on the hub, or its address.
        revision: The commit, branch or tag; None for the default one.
        allow_patterns: Only files that match one of these; None for all.
        ignore_patterns: No files that match one of these.
        endpoint: The hub's address; None for the public one.
        token: The hub's token.
    """

    kind: str
    folder: str
    repo: str
    revision: str | None = None
    allow_patterns: Sequence[str] | None = None
    ignore_patterns: Sequence[str] | None = None
    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the job as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        at = f" at {self.revision}" if self.revision else ""
        where = f" from {self.endpoint}" if self.endpoint else ""
        return f"{self.repo}{at}{where}"


@dataclass(frozen=True, slots=True)
class Found:
    """A file that was fetched.

    Attributes:
        path: Where it lies in the repository.
        digests: What it holds.
    """

    path: str
    digests: Digests


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What is to be done.

    Attributes:
        start: The models to begin with, oldest first.
        stop: The ids of fetches that nobody wants any more.
    """

    start: tuple[platform.Model, ...]
    stop: frozenset[str]


def plan_fetches(
    wanted: Sequence[platform.Model], running: Collection[str], limit: int
) -> FetchPlan:
    """Return which fetches to start and to stop.

    Args:
        wanted: The models that are to be fetched, oldest first.
        running: The ids of those whose fetch runs.
        limit: How many may run at once.
    """
    ids = {model.id for model in wanted}
    stop = frozenset(running) - ids
    room = limit - len(running)
    waiting = [model for model in wanted if model.id not in running]
    return FetchPlan(tuple(waiting[: max(0, room)]), stop)


def job_of(
    model: platform.Model, folder: str, *, endpoint: str | None, token: str | None
) -> FetchJob:
    """Return what fetches a model.

    Raises:
        FetchFailure: The source has no payload, or an address with a password: the model is of
            another program, or an earlier version.
    """
    hub, git = model.source.huggingFaceHub, model.source.gitLFS
    if hub is not None:
        return FetchJob(
            kind="hub",
            folder=folder,
            repo=hub.repoID,
            revision=hub.revision,
            allow_patterns=hub.allowPatterns,
            ignore_patterns=hub.ignorePatterns,
            endpoint=endpoint,
            token=token,
        )
    if git is not None and (git.url.username or git.url.password):
        # It would stand in the model's log, and in the list of processes.
        raise FetchFailure(
            "The address of the repository holds a user or a password. Only public repositories "
            "are fetched: change the password, and create the model again without."
        )
    if git is not None:
        cache = model.artifact.huggingFaceCache
        revision = cache.revision if cache is not None else None
        return FetchJob(kind="git", folder=folder, repo=str(git.url), revision=revision)
    raise FetchFailure("The source of the model names nothing to fetch. Create the model again.")


def check_paths(model: platform.Model, paths: Iterable[str]) -> None:
    """Let paths of a repository pass that can be those of files in the model's folder.

    Raises:
        FetchFailure: A path is not portable, or leads elsewhere.
    """
    odd = []
    for path in paths:
        try:
            check_portable_path(path)
            check_portable_path(f"{_prefix(model)}{path}")
        except ValueError as error:
            odd.append(f"{path!r}: {error}")
    if odd:
        raise FetchFailure(
            f"Names of files are not portable: {'; '.join(odd[:_SHOWN])}. Leave the files out with "
            "ignorePatterns, or rename them in the repository, and create the model again."
        )


def lay_in(model: platform.Model, found: Sequence[Found]) -> Mapping[str, Digests]:
    """Return the files of a model by their paths in its folder, out of those of a repository.

    Raises:
        FetchFailure: They are not those that the model declares.
    """
    files = {f"{_prefix(model)}{each.path}": each.digests for each in found}
    volume = model.artifact.volume
    wrong = _wrong(volume.files if volume else [], files)
    if wrong:
        raise FetchFailure(
            f"The repository does not hold what the model declares: {'; '.join(wrong[:_SHOWN])}. "
            "Create a model with the files that are there, or with an empty list of files."
        )
    return files


def _prefix(model: platform.Model) -> str:
    cache = model.artifact.huggingFaceCache
    return f"{cache.snapshot_path()}/" if cache is not None else ""


def _wrong(declared: Sequence[platform.File], files: Mapping[str, Digests]) -> list[str]:
    wrong = []
    for file in declared:
        found = files.get(file.path)
        if found is None:
            wrong.append(f"{file.path!r} is missing")
        elif found.size != file.size:
            wrong.append(f"{file.path!r} has {found.size} bytes, not {file.size}")
        elif file.digest.md5 not in (None, found.md5):
            wrong.append(f"{file.path!r} has the MD5 {found.md5}, not {file.digest.md5}")
    return wrong
