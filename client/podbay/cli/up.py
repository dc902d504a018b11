"""`podbay up`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podbay.cli.databases import database_option
from podbay.cli.detached import start_detached, up_log
from podbay.cli.durations import duration_option
from podbay.cli.failures import EXIT_INTERRUPTED
from podbay.cli.invocation import Invocation, data_dir_option, json_option, pass_invocation
from podbay.cli.lazy import LoneCommand

if TYPE_CHECKING:
    from podbay.local.installation import Installation, Leftover
    from podbay.local.plan import UpSettings
    from podbay.local.state import UpRecord
    from podbay.local.supervisor import Event

__all__ = ["up"]


_PORT = click.IntRange(0, 65535)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _size(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    from podbay.schema.platform import quantity_to_int  # noqa: PLC0415 # takes long

    if text is None:
        return None
    try:
        size = quantity_to_int(text)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise click.BadParameter(f"{text!r} is not a size, as 500Gi")
    return text


def _address(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    from podbay.local.ports import split  # noqa: PLC0415 # takes long

    if text is not None:
        try:
            split(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is not an address, as 127.0.0.1:9103") from error
    return text


def _service_options(
    _ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[str, str, str | None], ...]:
    from podbay.local.plan import read_service_option  # noqa: PLC0415 # takes long

    try:
        return tuple(read_service_option(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(cls=LoneCommand)
@click.option(
    "--registry-port",
    type=_PORT,
    default=7101,
    show_default=True,
    help="The registry's port; 0 for a free one.",
)
@click.option(
    "--session-manager-port",
    type=_PORT,
    default=7102,
    show_default=True,
    help="The session manager's port; 0 for a free one.",
)
@click.option(
    "--inference-router-port",
    type=_PORT,
    default=7103,
    show_default=True,
    help="The inference router's port; 0 for a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on. Others can reach any but a loopback one, so the "
    "process driver is off there unless it is enabled.",
)
@click.option(
    "--advertise-host", "advertised_host", help="The name under which clients reach this machine."
)
@click.option(
    "--tls",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Speak TLS, with the certificates in this folder (`podbay certs`). Where others can reach "
    "the services, some are made in the data folder unless given.",
)
@click.option(
    "--allow-plain-text-off-loopback",
    "plain_text",
    is_flag=True,
    help="Speak plain text, tokens included, although others can reach the services.",
)
@data_dir_option
@database_option
@click.option("--workers", type=click.IntRange(min=1), help="How many processes the router has.")
@click.option(
    "--session-managers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many session managers there are, of which one leads and the others stand by; more "
    "than one need a PostgreSQL (--database).",
)
@click.option(
    "--signing-key-days",
    type=click.FloatRange(1 / 24, 3650),
    metavar="DAYS",
    help="After how long a key of session tokens is followed by another, from an hour (0.042) to "
    "ten years; 30 unless said.",
)
@click.option(
    "--metrics-listen",
    metavar="HOST:PORT",
    callback=_address,
    help="Where the router shows its numbers to Prometheus, as 127.0.0.1:9103; needs the extra "
    "'telemetry'. Whoever reaches the address sees them.",
)
@click.option(
    "--drivers",
    metavar="process,inprocess,attached,docker",
    help="What runs replicas; what is safe on the host unless said.",
)
@click.option(
    "--enable-process-driver",
    is_flag=True,
    help="Run commands as your user although others can reach the services.",
)
@click.option(
    "--nodes",
    type=_FILE,
    help="A TOML file that declares the nodes for containers; see `podbay node declare`.",
)
@click.option(
    "--runner-kinds",
    type=_FILE,
    help="A TOML file that changes how the kinds of runners are run, as vllm.",
)
@click.option(
    "--allow-egress",
    is_flag=True,
    help="Let replicas open connections to the outside whose service asks for it.",
)
@click.option(
    "--allow-root-images",
    is_flag=True,
    help="Run images as root that name no user; otherwise they run as an unprivileged one.",
)
@click.option(
    "--allow-unbounded-scratch",
    is_flag=True,
    help="Let scratch space that is more than memory holds, and the volumes of images, take a "
    "node's disk without bounds where its engine cannot bound them.",
)
@click.option(
    "--node-grace",
    callback=duration_option,
    metavar="DURATION",
    help="How long a node may be out of reach before its replicas are placed elsewhere; 60s "
    "unless said.",
)
@click.option(
    "--gpu-probe-image",
    metavar="IMAGE",
    help="An image with nvidia-smi, by which nodes with GPUs are looked at now and then.",
)
@click.option(
    "--gpu-probe-interval",
    callback=duration_option,
    metavar="DURATION",
    help="The pause between two looks at the GPUs of a node, and into the replicas that have some; "
    "5m unless said.",
)
@click.option(
    "--model-cache-quota",
    metavar="SIZE",
    callback=_size,
    help="How much of models' files is kept for replicas, as 500Gi.",
)
@click.option(
    "--drain",
    "drain_seconds",
    default="10s",
    show_default=True,
    callback=duration_option,
    metavar="DURATION",
    help="How long each service may finish its calls at the end.",
)
@click.option(
    "--model-quota",
    metavar="SIZE",
    callback=_size,
    help="The most bytes that the files of models may have, as 500Gi.",
)
@click.option(
    "--account-quota",
    multiple=True,
    metavar="NAME=NUMBER",
    help="What an account may have that is made from now on, as sessions=4, replicas=8, "
    "gpus.nvidia.com/gpu-t4=2, model-bytes=500Gi or requests-in-flight=64; may be given more than "
    "once.",
)
@click.option("--no-fetch", is_flag=True, help="Fetch no models from hubs and Git.")
@click.option(
    "--hub-token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="A token for the Hugging Face Hub; readable by its owner only.",
)
@click.option(
    "--reset-admin-token",
    is_flag=True,
    help="Revoke the administrator's token and write a new one, for when its file was lost.",
)
@click.option(
    "--keep-model-files",
    is_flag=True,
    help="Keep models' files in this data folder from now on, although they are said to be "
    "elsewhere or of another installation; those that the database does not know are removed.",
)
@click.option(
    "--set",
    "service_options",
    multiple=True,
    metavar="SERVICE.OPTION=VALUE",
    callback=_service_options,
    help="An option of a service that is not above, as inference-router.max-body-bytes=268435456 "
    "or registry.audit-days=30; may be given more than once. `python -m podbay_inference_router "
    "--help` and its kin list them.",
)
@click.option("--detach", is_flag=True, help="Run in the background; return when healthy.")
@click.option("--detached", is_flag=True, hidden=True, help="This is the background process.")
@json_option
@pass_invocation
def up(
    invocation: Invocation,
    /,
    *,
    drivers: str | None,
    database: str | None,
    detach: bool,
    detached: bool,
    **options: Any,
) -> None:
    """Start the registry, the session manager and the inference router on this machine.

    Runs until Ctrl-C, which finishes what runs; a second one ends everything at once.
    """
    from podbay.local.database import use_database  # noqa: PLC0415 # takes long
    from podbay.local.plan import UpSettings  # noqa: PLC0415 # takes long

    settings = UpSettings(drivers=_drivers(drivers), **options)
    if database is not None:
        use_database(invocation.data(), database)
    settings.check_database(invocation.data())
    if detach:
        _show_running(invocation, start_detached(invocation.data(), settings))
        _say("runs in the background; stop it with `podbay down`")
        return
    code = asyncio.run(_Foreground(invocation, settings, detached=detached).run())
    sys.exit(code)


def _drivers(text: str | None) -> tuple[str, ...] | None:
    from podbay.local.plan import ALL_DRIVERS  # noqa: PLC0415 # takes long

    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in ALL_DRIVERS:
            raise click.BadParameter(f"--drivers knows {', '.join(ALL_DRIVERS)}, not {name!r}")
    if not names:
        raise click.BadParameter("--drivers needs at least one name")
    return names


def _say(text: str, *, color: str | None = None) -> None:
    # A terminal that is gone, or a full disk, is no reason to stop the services.
    with contextlib.suppress(OSError):
        click.secho(text, fg=color, err=True)


def _show_event(event: Event) -> None:
    colors = {"healthy": "green", "died": "red", "killed": "red", "warning": "yellow"}
    _say(f"{event.service:<17} {event.text}", color=colors.get(event.kind))
    for line in event.lines:
        _say(f"{'':<17} | {line}")


def _show_running(invocation: Invocation, record: UpRecord) -> None:
    """Write where everything is, and how to use it; never the token itself."""
    if invocation.json:
        click.echo(record.model_dump_json(by_alias=True, exclude_none=True))
        return
    endpoint = record.service("registry").endpoint
    _say("")
    for service in record.services:
        click.echo(f"{service.name:<17} {service.endpoint}")
    click.echo(f"{'admin token':<17} {record.admin_token_file}")
    click.echo()
    click.echo(f"export PODBAY_API_ENDPOINT={endpoint}")
    click.echo(f'export PODBAY_API_TOKEN="$(cat {_quoted(record.admin_token_file)})"')
    if record.ca_file is not None:
        click.echo(f"export PODBAY_API_CA_FILE={_quoted(record.ca_file)}")
    click.echo()
    # With a PostgreSQL the token may be where another registry has written it.
    if not (record.admin_token_file.exists() or invocation.data().database_file.exists()):
        _say(
            f"the administrator's token is not in {record.admin_token_file}: put it back, or start "
            "once with --reset-admin-token, which revokes it and writes a new one",
            color="yellow",
        )


def _quoted(path: Path) -> str:
    import shlex  # noqa: PLC0415 # for this one call

    return shlex.quote(str(path))


class _Foreground:
    """`podbay up` as a process: signals in, exit code out."""

    def __init__(self, invocation: Invocation, settings: UpSettings, *, detached: bool) -> None:
        from podbay.local.installation import Installation  # noqa: PLC0415 # takes long

        self._invocation = invocation
        self._detached = detached
        self._log = up_log(invocation.data())
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()
        self._up: Installation = Installation(
            invocation.data().path, settings, on_event=self._on_event, detached=detached
        )

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        try:
            if await self._unless(self._up.start(), self._stop):
                _show_running(self._invocation, self._up.record())
                if not self._detached:
                    _say("Ctrl-C stops everything")
                await self._unless(self._up.wait(), self._stop)
        finally:
            code = await self._end()
        return code

    def _on_event(self, event: Event) -> None:
        _show_event(event)
        if self._detached:
            self._log.cap()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._kill.set()
        else:
            _say("\nstops; once more ends everything at once")
        self._stop.set()

    async def _unless(self, work: Coroutine[Any, Any, object], event: asyncio.Event) -> bool:
        """Do some work unless an event comes first, and return whether it was done."""
        task = asyncio.ensure_future(work)
        interrupt = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((task, interrupt), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            await task
            return True
        finally:
            for one in (task, interrupt):
                one.cancel()
            await asyncio.gather(task, interrupt, return_exceptions=True)

    async def _end(self) -> int:
        leftover: list[Leftover] = []

        async def stop() -> None:
            leftover.append(await self._up.stop())

        if not await self._unless(stop(), self._kill):
            leftover.append(await asyncio.to_thread(self._up.kill))
            _say("everything was ended at once")
            return 1 if leftover[0].remaining else EXIT_INTERRUPTED
        return _show_end(leftover[0]) if self._up.record().services else 0


def _show_end(leftover: Leftover) -> int:
    if leftover.killed:
        _say(f"these processes were left and had to be killed: {_ids(leftover.killed)}")
    if leftover.remaining:
        _say(f"these processes cannot be killed: {_ids(leftover.remaining)}", color="red")
        return 1
    _say("stopped; no process is left")
    return 0


def _ids(pids: tuple[int, ...]) -> str:
    return ", ".join(map(str, pids))
