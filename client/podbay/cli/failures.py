"""Failures as people and programs read them, and their exit codes."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from podbay.cli.invocation import Invocation

if TYPE_CHECKING:
    from podbay.errors import PodbayError
    from podbay.local.faults import LocalError
    from podbay.schema.adapters import AdapterError

__all__ = [
    "EXIT_DENIED",
    "EXIT_ERROR",
    "EXIT_INTERRUPTED",
    "EXIT_NOT_FOUND",
    "EXIT_UNAVAILABLE",
    "reported",
]

EXIT_ERROR = 1
EXIT_NOT_FOUND = 3
EXIT_DENIED = 4
EXIT_UNAVAILABLE = 5
EXIT_INTERRUPTED = 130

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO),
        *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    }
)


@contextmanager
def reported(ctx: click.Context) -> Iterator[None]:
    """Turn failures into a message on stderr and an exit code.

    What is not a failure of Podbay or of click passes.
    """
    try:
        yield
    except (click.exceptions.Exit, click.Abort):
        raise
    except click.ClickException as error:
        if not ctx.ensure_object(Invocation).json:
            raise
        reason = "USAGE" if isinstance(error, click.UsageError) else "ERROR"
        _write_json(ctx, {"reason": reason, "message": error.format_message()}, error.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        ctx.exit(EXIT_INTERRUPTED)
    except Exception as error:
        _report(ctx, error)
        raise


def _report(ctx: click.Context, error: Exception) -> None:
    """Exit with a report where the failure is one that is known."""
    from podbay.errors import PodbayError  # noqa: PLC0415 # not needed where nothing fails
    from podbay.local.faults import LocalError  # noqa: PLC0415 # not needed where nothing fails
    from podbay.schema.adapters import AdapterError  # noqa: PLC0415 # likewise

    # Some of ours are errors of the system's kind, too, as a connection that was lost.
    if isinstance(error, OSError) and not isinstance(error, PodbayError):
        file = _file_error(error)
        if file is None:
            return
        error = file
    if isinstance(error, PodbayError):
        body, code = podbay_error(error), exit_code(error)
        text = error.report()
    elif isinstance(error, LocalError):
        body, code = local_error(error), EXIT_ERROR
        text = "\n".join(
            (
                f"{error.message} ({error.reason})",
                *(f"  | {line}" for line in error.evidence),
                *(("  " + error.way_out,) if error.way_out else ()),
            )
        )
    elif isinstance(error, AdapterError):
        # Pipelines run here: no service has a word in it.
        body, code = adapter_error(error), EXIT_ERROR
        text = f"{error} ({error.reason})\n  {error.hint}"
    else:
        return
    if ctx.ensure_object(Invocation).json:
        _write_json(ctx, body, code)
    click.secho("Error: ", err=True, nl=False, fg="red", bold=True)
    click.echo(text, err=True)
    ctx.exit(code)


def _file_error(error: OSError) -> LocalError | None:
    """Return what is to be told of a file that the user has named; None for other failures."""
    from podbay.local.faults import LocalError  # noqa: PLC0415 # not needed where nothing fails

    if error.errno not in _FULL | _REFUSED:
        return None
    return LocalError(
        "FILE_NOT_USABLE",
        f"{error.filename or 'what was to be written'}: {error.strerror}",
        way_out="make room on its disk, or use another one"
        if error.errno in _FULL
        else "check its path and permissions, or name another",
    )


def _write_json(ctx: click.Context, body: dict[str, Any], code: int) -> None:
    click.echo(json.dumps({"error": body}, ensure_ascii=False), err=True)
    ctx.exit(code)


def exit_code(error: PodbayError) -> int:
    """Return the exit code of a client's error."""
    from podbay import errors  # noqa: PLC0415 # not needed where nothing fails

    codes: list[tuple[tuple[type[BaseException], ...], int]] = [
        ((errors.NotFoundError,), EXIT_NOT_FOUND),
        ((errors.AuthenticationError, errors.PermissionDeniedError), EXIT_DENIED),
        (
            (
                errors.UnavailableError,
                errors.SessionNotReadyError,
                errors.DeadlineExceededError,
                errors.ConnectionLostError,
                errors.OverloadedError,
            ),
            EXIT_UNAVAILABLE,
        ),
    ]
    for kinds, code in codes:
        if isinstance(error, kinds):
            return code
    return EXIT_ERROR


def podbay_error(error: PodbayError) -> dict[str, Any]:
    """Return a client's error in its JSON form."""
    body: dict[str, Any] = {"reason": error.reason, "message": error.message}
    if error.metadata:
        body["metadata"] = error.metadata
    if error.violations:
        body["violations"] = [
            {"field": field, "description": description} for field, description in error.violations
        ]
    if error.retry_after is not None:
        body["retryAfter"] = error.retry_after
    if error.hint:
        body["wayOut"] = error.hint
    return body


def adapter_error(error: AdapterError) -> dict[str, Any]:
    """Return the error of an adapter in its JSON form."""
    return {
        "reason": error.reason,
        "message": str(error),
        "metadata": error.metadata,
        "wayOut": error.hint,
    }


def local_error(error: LocalError) -> dict[str, Any]:
    """Return an error of the local platform in its JSON form."""
    body: dict[str, Any] = {"reason": error.reason, "message": error.message}
    if error.evidence:
        body["evidence"] = list(error.evidence)
    if error.way_out:
        body["wayOut"] = error.way_out
    return body
