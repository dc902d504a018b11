"""Fetching a Git repository with large files, by `git` and `git-lfs`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from podbay_registry.fetch_plan import FetchFailure, FetchJob
from podbay_registry.fetching.events import Events

__all__ = ["fetch"]

_LAST_LINES: Final = 5

# What git says, and what it means. The first that fits counts.
_DENIED: Final = (
    "Authentication failed",
    "could not read Username",
    "error: 403",
    "error: 401",
    "Authentication required",
    "Authorization error",
)
_NO_REVISION: Final = ("couldn't find remote ref", "not our ref", "no such ref", "unadvertised")
_NO_REPOSITORY: Final = ("not found", "error: 404", "does not appear to be a git repository")
_AWAY: Final = (
    "Could not resolve host",
    "Failed to connect",
    "Couldn't connect",
    "Connection refused",
    "Connection timed out",
    "Operation too slow",
    "early EOF",
    "unexpected disconnect",
    "connection reset",
    "error: 50",
    "HTTP 50",
)
_FULL: Final = ("No space left", "Disk quota exceeded")


def fetch(job: FetchJob, events: Events) -> None:
    """Fetch what a job asks for into its folder, and tell its files.

    Raises:
        FetchFailure: It cannot be fetched.
    """
    folder = Path(job.folder)
    git = _Git(job, folder)
    git.check_tools()
    if not (folder / ".git").is_dir():
        git.run("init", "--quiet", ".")
    events.log(f"fetching {job.revision or 'the default branch'}")
    git.run(
        *("fetch", "--quiet", "--depth", "1", "--no-tags", "--no-recurse-submodules"),
        *("--", job.repo, job.revision or "HEAD"),
    )
    git.run("checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
    commit = git.run("rev-parse", "HEAD").strip()
    large = _large_files(git.run("lfs", "ls-files", "--long", "--size"))
    events.log(f"commit {commit}, {len(large)} large files")
    if large:
        git.run("lfs", "fetch", "origin", commit)
        git.run("lfs", "checkout")
    for line in git.run("ls-files", "--stage", "-z").split("\0"):
        if not line:
            continue
        mode, _, rest = line.partition(" ")
        path = rest.partition("\t")[2]
        if mode in ("120000", "160000"):
            kind = "symbolic link" if mode == "120000" else "submodule"
            events.log(f"left out: {path!r} is a {kind}")
            continue
        events.file(path, large.get(path))


def _large_files(listing: str) -> dict[str, str]:
    """Return the SHA-256 of the large files by path, out of what `git lfs ls-files` says."""
    large = {}
    for line in listing.splitlines():
        sha256, _, rest = line.partition(" ")
        # A star (there) or a dash (not yet), the path, and the size in brackets.
        path = rest[2:].rpartition(" (")[0]
        large[path] = sha256
    return large


class _Git:
    """Runs git where only the job counts: no user's settings, hooks, prompts or other protocols."""

    def __init__(self, job: FetchJob, folder: Path) -> None:
        self._job = job
        self._folder = folder
        settings = {
            "core.hooksPath": os.devnull,
            "core.quotePath": "false",
            "credential.helper": "",
            "http.lowSpeedLimit": "1000",
            "http.lowSpeedTime": "60",
            "remote.origin.url": job.repo,
            # The repository itself could name another place, even files of this machine.
            "lfs.url": _lfs_address(job.repo),
            "lfs.activitytimeout": "60",
            # Without these, `git lfs checkout` says that it is not installed, and does nothing.
            "filter.lfs.clean": "git-lfs clean -- %f",
            "filter.lfs.smudge": "git-lfs smudge -- %f",
            "filter.lfs.process": "git-lfs filter-process",
            "filter.lfs.required": "true",
            "lfs.skipdownloaderrors": "false",
        }
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder / ".git"),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "http:https",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_CONFIG_COUNT": str(len(settings)),
            **{
                name: os.environ[name]
                for name in ("http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
                if name in os.environ
            },
        }
        for index, (key, value) in enumerate(settings.items()):
            self._environment[f"GIT_CONFIG_KEY_{index}"] = key
            self._environment[f"GIT_CONFIG_VALUE_{index}"] = value

    def check_tools(self) -> None:
        """Look whether git and git-lfs are there.

        Raises:
            FetchFailure: One is not.
        """
        for name, command in (("git", ["git", "version"]), ("git-lfs", ["git-lfs", "version"])):
            try:
                subprocess.run(  # noqa: S603 # a fixed command
                    command, env=self._environment, check=True, capture_output=True
                )
            except (OSError, subprocess.CalledProcessError):
                raise FetchFailure(
                    f"The registry cannot fetch from Git: {name} is not on its PATH. Have the "
                    f"operator install {name} and start the registry again, then create the model "
                    "again."
                ) from None

    def run(self, *arguments: str) -> str:
        """Run git and return what it says.

        Raises:
            FetchFailure: It failed.
        """
        done = subprocess.run(  # noqa: S603 # git, with arguments that cannot be options
            ["git", *arguments],  # noqa: S607 # where git is, the operator's PATH says
            cwd=self._folder,
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise self._failure(arguments[0], done.returncode, done.stderr)
        return done.stdout

    def _failure(self, verb: str, code: int, said: str) -> FetchFailure:
        lines = [line for line in said.splitlines() if line.strip()]
        evidence = "\n".join(lines[-_LAST_LINES:])
        where = _without_secrets(self._job.repo)
        evidence = evidence.replace(self._job.repo, where)
        if any(text in said for text in _FULL):
            return FetchFailure(
                "The disk of the registry's data directory is full. Make room there, or delete "
                "models, and create the model again."
            )
        if any(text in said for text in _NO_REVISION):
            what = f"{where} has no revision {self._job.revision!r}, or no commit at all."
        elif any(text in said for text in _DENIED):
            what = f"{where} does not let this registry in. Only public repositories are fetched."
        elif any(text in said for text in _AWAY):
            return FetchFailure(
                f"{where} cannot be reached, or broke off. Git says:\n{evidence}", transient=True
            )
        elif any(text in said for text in _NO_REPOSITORY):
            what = f"{where} is not a Git repository, or lacks a large file."
        else:
            what = f"git {verb} failed (exit code {code})."
        return FetchFailure(f"{what} Mend it, and create the model again. Git says:\n{evidence}")


def _lfs_address(url: str) -> str:
    """Return where the large files of a repository are, unless it says otherwise."""
    base = url.rstrip("/")
    return f"{base}/info/lfs" if base.endswith(".git") else f"{base}.git/info/lfs"


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
