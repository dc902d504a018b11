"""Fetching a snapshot of a Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from podbay_registry.fetch_plan import FetchFailure, FetchJob
from podbay_registry.fetching.events import Events

__all__ = ["fetch"]

_WORKERS: Final = 4
_SLICE: Final = 1 << 20
_DENIED: Final = (401, 403)
_BUSY: Final = (408, 429)


def fetch(job: FetchJob, events: Events) -> None:
    """Fetch what a job asks for into its folder, and tell its files.

    Raises:
        FetchFailure: It cannot be fetched.
        OSError: The machine refused.
    """
    # Only the token that the registry was given is sent: none that lies about in a home folder.
    names = ("DISABLE_TELEMETRY", "DISABLE_PROGRESS_BARS", "DISABLE_IMPLICIT_TOKEN")
    os.environ.update({f"HF_HUB_{name}": "1" for name in names})
    try:
        import huggingface_hub  # noqa: PLC0415 # an extra
    except ImportError:
        raise FetchFailure(
            "The registry cannot fetch from a Hugging Face Hub: its Python lacks the package "
            "huggingface-hub. Have the operator install podbay[models] and start the registry "
            "again, then create the model again."
        ) from None
    try:
        chosen, commit = _look(huggingface_hub, job)
        events.total(sum(file.size for file in chosen), len(chosen))
        events.log(f"{len(chosen)} files of commit {commit}")
        # By the commit: asked for a branch, the library takes what an earlier try has left where
        # the hub does not answer.
        huggingface_hub.snapshot_download(
            job.repo,
            revision=commit,
            local_dir=job.folder,
            endpoint=job.endpoint,
            token=job.token or False,
            allow_patterns=_list(job.allow_patterns),
            ignore_patterns=_list(job.ignore_patterns),
            max_workers=_WORKERS,
        )
    except (FetchFailure, OSError) as error:
        raise _failure(error, job) from error
    except Exception as error:
        traceback.print_exc()
        raise _failure(error, job) from error
    for file in chosen:
        sha256 = file.lfs.sha256 if file.lfs is not None else None
        if sha256 is None and _git_id(Path(job.folder) / file.path) != file.blob_id:
            raise FetchFailure(
                f"The file {file.path!r} is not what the hub announced: it was damaged on its way.",
                transient=True,
            )
        events.file(file.path, sha256)


def _look(huggingface_hub: Any, job: FetchJob) -> tuple[list[Any], str]:
    """Return the files to fetch, and the commit that the revision stands for."""
    api = huggingface_hub.HfApi(endpoint=job.endpoint, token=job.token or False)
    commit = api.repo_info(job.repo, revision=job.revision).sha
    tree = api.list_repo_tree(job.repo, recursive=True, revision=commit)
    files = [entry for entry in tree if hasattr(entry, "blob_id")]
    chosen = list(
        huggingface_hub.utils.filter_repo_objects(
            files,
            allow_patterns=_list(job.allow_patterns),
            ignore_patterns=_list(job.ignore_patterns),
            key=lambda file: file.path,
        )
    )
    if not chosen:
        raise FetchFailure(
            f"None of the {len(files)} files of {job} is chosen by allowPatterns and "
            "ignorePatterns. Mend the patterns, and create the model again."
        )
    return chosen, commit


def _list(patterns: Sequence[str] | None) -> list[str] | None:
    return None if patterns is None else list(patterns)


def _git_id(path: Path) -> str:
    """Return the id that git gives a file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(_SLICE):
            digest.update(data)
    return digest.hexdigest()


def _failure(error: Exception, job: FetchJob) -> Exception:
    """Return what an error of the hub's client means."""
    from huggingface_hub import errors  # noqa: PLC0415 # it is there: it has just failed

    if isinstance(error, FetchFailure):
        return error
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status in _DENIED:
        return FetchFailure(
            f"The hub does not let this registry have {job} (HTTP {status}). The repository may "
            "be private, gated or missing. Check its name; have the operator give the registry a "
            "token that may read it (--hub-token-file), and create the model again."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FetchFailure(
            f"The repository {job.repo} has no revision {job.revision!r}. Name a commit, branch "
            "or tag that it has, and create the model again."
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return FetchFailure(
            f"There is no repository {job.repo!r} on the hub{_at(job)}, or it is private. Check "
            "the name, and create the model again."
        )
    if status is not None and (status in _BUSY or status >= 500):
        return FetchFailure(f"The hub{_at(job)} cannot serve now (HTTP {status}).", transient=True)
    if _is_unreachable(error):
        return FetchFailure(
            f"The hub{_at(job)} cannot be reached ({type(error).__name__}). Is the machine of the "
            "registry online, and is --hub-endpoint right?",
            transient=True,
        )
    if isinstance(error, OSError) and error.errno is not None:
        return error
    told = f" (HTTP {status})" if status is not None else ""
    return FetchFailure(
        f"The hub's client failed with {type(error).__name__}{told}; the log of the model has the "
        "details."
    )


def _is_unreachable(error: BaseException | None) -> bool:
    """Say whether an error is one of the connection; the library wraps some."""
    while error is not None:
        module = type(error).__module__.partition(".")[0]
        names = {kind.__name__ for kind in type(error).__mro__}
        if module.startswith("http") and "TransportError" in names:
            return True
        if isinstance(error, ConnectionError) or "LocalEntryNotFoundError" in names:
            return True
        error = error.__cause__
    return False


def _at(job: FetchJob) -> str:
    return f" at {job.endpoint}" if job.endpoint else ""
