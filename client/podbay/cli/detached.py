"""`podbay up --detach`: start itself in the background."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from podbay.cli.output import progress
from podbay.local.faults import LocalError
from podbay.local.logfile import LogFile

if TYPE_CHECKING:
    from podbay.local.plan import UpSettings
    from podbay.local.state import DataDir, UpRecord

__all__ = ["start_detached", "up_log"]

_POLL_SECONDS = 0.1
_TIMEOUT_SECONDS = 90.0


def start_detached(data: DataDir, settings: UpSettings) -> UpRecord:
    """Start `podbay up` in the background, and return when it is healthy.

    Args:
        data: Its data folder.
        settings: Its options.

    Raises:
        LocalError: It did not start.
    """
    data.prepare()
    log = up_log(data)
    output = log.open_for_run()
    try:
        process = subprocess.Popen(  # noqa: S603 # the command line is this program's own
            (sys.executable, "-m", "podbay.cli", "up", "--detached", *_arguments(data, settings)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=Path("/"),
            env=_environment(),
        )
    finally:
        os.close(output)
    with progress("podbay up starts in the background", quiet=True):
        return _healthy(process, data, log)


def up_log(data: DataDir) -> LogFile:
    """Return the log of a `podbay up` in the background."""
    return LogFile(data.logs / "up.log")


def _healthy(process: subprocess.Popen[bytes], data: DataDir, log: LogFile) -> UpRecord:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        record = data.read_record()
        if record and record.pid == process.pid and record.state == "running":
            return record
        time.sleep(_POLL_SECONDS)
    if process.poll() is None:
        process.terminate()
        what = f"podbay up is not healthy {_TIMEOUT_SECONDS:.0f} s after its start"
    else:
        what = f"podbay up ended with exit code {process.returncode} before it was healthy"
    raise LocalError(
        "START_FAILED", what, evidence=log.tail(20), way_out=f"its whole log is {log.path}"
    )


def _environment() -> dict[str, str]:
    # It runs in another folder, so a path of modules that is relative must not be.
    environment = dict(os.environ)
    if environment.get("PYTHONPATH"):
        parts = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(part).absolute()) for part in parts)
    return environment


def _arguments(data: DataDir, settings: UpSettings) -> list[str]:
    arguments = [
        *("--data-dir", str(data.path)),
        *("--registry-port", str(settings.registry_port)),
        *("--session-manager-port", str(settings.session_manager_port)),
        *("--inference-router-port", str(settings.inference_router_port)),
        *("--host", settings.host),
        *("--drain", f"{settings.drain_seconds:f}s"),
    ]
    if settings.advertised_host:
        arguments += ["--advertise-host", settings.advertised_host]
    if settings.workers:
        arguments += ["--workers", str(settings.workers)]
    if settings.metrics_listen:
        arguments += ["--metrics-listen", settings.metrics_listen]
    if settings.drivers is not None:
        arguments += ["--drivers", ",".join(settings.drivers)]
    if settings.tls is not None:
        arguments += ["--tls", str(settings.tls.absolute())]
    if settings.plain_text:
        arguments.append("--allow-plain-text-off-loopback")
    if settings.enable_process_driver:
        arguments.append("--enable-process-driver")
    for service, option, value in settings.service_options:
        arguments += ["--set", f"{service}.{option}" + ("" if value is None else f"={value}")]
    return [*arguments, *_registry_arguments(settings), *_manager_arguments(settings)]


def _registry_arguments(settings: UpSettings) -> list[str]:
    arguments: list[str] = []
    if settings.model_quota:
        arguments += ["--model-quota", settings.model_quota]
    for limit in settings.account_quota:
        arguments += ["--account-quota", limit]
    if settings.no_fetch:
        arguments.append("--no-fetch")
    if settings.reset_admin_token:
        arguments.append("--reset-admin-token")
    if settings.keep_model_files:
        arguments.append("--keep-model-files")
    if settings.hub_token_file is not None:
        # It runs in another folder.
        arguments += ["--hub-token-file", str(settings.hub_token_file.absolute())]
    return arguments


def _manager_arguments(settings: UpSettings) -> list[str]:
    from podbay.local.plan import container_flags  # noqa: PLC0415 # takes long

    arguments: list[str] = []
    if settings.session_managers > 1:
        arguments += ["--session-managers", str(settings.session_managers)]
    if settings.signing_key_days is not None:
        arguments += ["--signing-key-days", f"{settings.signing_key_days:f}"]
    if settings.nodes is not None:
        arguments += ["--nodes", str(settings.nodes.absolute())]
    if settings.runner_kinds is not None:
        arguments += ["--runner-kinds", str(settings.runner_kinds.absolute())]
    if settings.node_grace is not None:
        arguments += ["--node-grace", f"{settings.node_grace:f}s"]
    if settings.gpu_probe_interval is not None:
        arguments += ["--gpu-probe-interval", f"{settings.gpu_probe_interval:f}s"]
    return [*arguments, *container_flags(settings)]
