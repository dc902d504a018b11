"""`podbay account quota`."""

from __future__ import annotations

from types import EllipsisType
from typing import TYPE_CHECKING, Any

import click

from podbay.cli.invocation import Invocation, account_of, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import table, write_json

if TYPE_CHECKING:
    from podbay.types import AccountQuota, AccountUsage

__all__ = ["quota"]

_NONE = "none"


class _Limit(click.ParamType[Any]):
    """A number, a quantity as 500Gi, or "none" to lift the limit."""

    name = "limit"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if value is ...:
            return value
        from podbay.schema.platform import quantity_to_int  # noqa: PLC0415 # takes long

        text = str(value)
        if text == _NONE:
            return None
        try:
            number = quantity_to_int(text)
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is not a number, as 4 or 500Gi, nor {_NONE!r}", param, ctx)
        if number < 0:
            self.fail("must not be negative", param, ctx)
        return number


_LIMIT = _Limit()


@click.group(cls=Noun)
def quota() -> None:
    """How much an account may have, and what it uses."""


@quota.command()
@click.argument("account", required=False)
@json_option
@pass_invocation
def show(invocation: Invocation, account: str | None) -> None:
    """Show the quota of an account, and what is used; your token's account unless named."""
    with invocation.client() as client:
        name = account_of(client, account)
        _show(invocation, name, client.accounts.quota(name), client.accounts.usage(name))


@quota.command("set")
@click.argument("account")
@click.option("--sessions", type=_LIMIT, default=..., metavar="N|none", help="Sessions that run.")
@click.option(
    "--replicas", type=_LIMIT, default=..., metavar="N|none", help="Replicas of all its sessions."
)
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    metavar="TYPE=N|none",
    help="GPUs of a hardware type, as nvidia.com/gpu-t4=2; may be given more than once.",
)
@click.option(
    "--model-bytes",
    type=_LIMIT,
    default=...,
    metavar="SIZE|none",
    help="What the files of its models may have, as 500Gi.",
)
@click.option(
    "--requests-in-flight",
    type=_LIMIT,
    default=...,
    metavar="N|none",
    help="Calls that run at once, over all sessions.",
)
@json_option
@pass_invocation
def set_quota(
    invocation: Invocation,
    account: str,
    sessions: int | EllipsisType | None,
    replicas: int | EllipsisType | None,
    gpus: tuple[str, ...],
    model_bytes: int | EllipsisType | None,
    requests_in_flight: int | EllipsisType | None,
) -> None:
    """Change the quota of an account: "none" lifts a limit, what is not given stays.

    What runs goes on, also where a limit is below what is used.
    """
    given = (sessions, replicas, model_bytes, requests_in_flight)
    if not gpus and all(limit is ... for limit in given):
        raise click.UsageError("name at least one limit, as --sessions 4")
    with invocation.client() as client:
        changed = client.accounts.set_quota(
            account,
            sessions=sessions,
            replicas=replicas,
            gpus=_gpus(gpus) if gpus else ...,
            model_bytes=model_bytes,
            requests_in_flight=requests_in_flight,
        )
        _show(invocation, account, changed, client.accounts.usage(account))


def _gpus(texts: tuple[str, ...]) -> dict[str, int | None]:
    limits: dict[str, int | None] = {}
    for text in texts:
        kind, sign, number = text.rpartition("=")
        if not sign or not kind:
            raise click.BadParameter(f"--gpu takes TYPE=N or TYPE=none, not {text!r}")
        limits[kind] = _LIMIT.convert(number, None, None)
    return limits


def _show(invocation: Invocation, account: str, limits: AccountQuota, used: AccountUsage) -> None:
    if invocation.json:
        write_json({"account": account, "quota": limits, "usage": used})
        return
    kinds = sorted({*limits.gpus, *used.gpus})
    rows = [
        ("sessions", used.sessions, limits.sessions),
        ("replicas", used.replicas, limits.replicas),
        *((f"GPUs {kind}", used.gpus.get(kind, 0), limits.gpus.get(kind)) for kind in kinds),
        ("model bytes", used.model_bytes, limits.model_bytes),
        ("requests in flight", used.requests_in_flight, limits.requests_in_flight),
    ]
    table(
        ("OF", "USED", "LIMIT"),
        [(of, count, "none" if limit is None else limit) for of, count, limit in rows],
    )
    over = [of for of, count, limit in rows if limit is not None and count > limit]
    if over:
        click.echo(
            f"more is used than the quota allows ({', '.join(over)}): what runs goes on, and "
            "nothing new begins before there is room",
            err=True,
        )
    if used.waiting_sessions:
        click.echo(f"sessions that wait for the quota: {used.waiting_sessions}", err=True)
