"""The command line of the session manager."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from podbay.schema.identities import SESSION_MANAGER
from podbay_kit.audit_options import add_audit_options, retention_of
from podbay_kit.process import (
    SettingsError,
    Stop,
    byte_size,
    common_options,
    listen_address,
    run,
    serve_until,
)
from podbay_kit.serving import split_address
from podbay_kit.storage import chosen_database, database_options
from podbay_kit.transport import is_loopback, transport_of, transport_options
from podbay_session_manager.key_ring import DEFAULT_KEY_AGE
from podbay_session_manager.operator_files import read_nodes, read_runner_kinds
from podbay_session_manager.policy import Policy
from podbay_session_manager.server import DRIVERS, Settings, serving

__all__ = ["main"]

_DAY: Final = 24 * 3600.0
_LEAST_LEASE_SECONDS: Final = 1.0
_MOST_LEASE_SECONDS: Final = 60.0


def _days(text: str) -> float:
    days = float(text)
    if not 1 / 24 <= days <= 3650:
        raise argparse.ArgumentTypeError(f"{text} is not from an hour (0.042) to ten years (3650)")
    return days


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podbay_session_manager",
        description="The session manager of a Podbay installation: sessions, their replicas and "
        "the nodes they run on.",
    )
    common_options(parser, port=7102)
    database_options(parser, "session_manager")
    transport_options(parser, service_port=7112)
    add_audit_options(parser)
    parser.add_argument(
        "--registry-endpoint",
        type=listen_address,
        metavar="HOST:PORT",
        help="the registry's address; with --tls that for services (default: 127.0.0.1:7101, with "
        "--tls 127.0.0.1:7111)",
    )
    parser.add_argument(
        "--drivers",
        default="",
        metavar="NAMES",
        help="what runs replicas, by commas and in the order of preference: process (commands and "
        "mocks as processes of this user, with all that this user may do), inprocess (mocks within "
        "this process), attached (mocks within the processes that made them), docker (containers "
        "on declared nodes). None unless given: then no session can be created",
    )
    parser.add_argument(
        "--mock-hosts",
        type=Path,
        metavar="FOLDER",
        help="where processes say that they host mocks, for the driver attached (default: a folder "
        "of the data directory)",
    )
    parser.add_argument(
        "--allow-process-driver-off-loopback",
        action="store_true",
        help="let the process driver run the commands of callers from other machines",
    )
    parser.add_argument(
        "--nodes",
        type=Path,
        metavar="FILE",
        help="a TOML file that declares the nodes for containers, as [[nodes]] tables; others can "
        "be declared while the session manager runs (podbay node declare)",
    )
    parser.add_argument(
        "--node-grace",
        type=float,
        default=Policy().node_grace,
        metavar="SECONDS",
        help="how long a node may be out of reach before its replicas are placed elsewhere "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--runner-kinds",
        type=Path,
        metavar="FILE",
        help="a TOML file that changes how the kinds of runners are run, as [kinds.vllm] tables",
    )
    parser.add_argument(
        "--allow-egress",
        action="store_true",
        help="let replicas open connections to the outside whose service asks for it",
    )
    parser.add_argument(
        "--allow-root-images",
        action="store_true",
        help="run images as root that name no user; otherwise they run as an unprivileged one",
    )
    parser.add_argument(
        "--allow-unbounded-scratch",
        action="store_true",
        help="let scratch space that is more than memory holds, and the volumes of images, take "
        "a node's disk without bounds where its engine cannot bound them",
    )
    parser.add_argument(
        "--gpu-probe-image",
        default="",
        metavar="IMAGE",
        help="an image with nvidia-smi, by which nodes with GPUs are looked at now and then "
        "(default: no look)",
    )
    parser.add_argument(
        "--gpu-probe-interval",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="the pause between two looks at the GPUs of a node, and into the replicas that have "
        "some (default: %(default)s)",
    )
    parser.add_argument(
        "--model-cache-quota",
        type=byte_size,
        metavar="SIZE",
        help="how much of models' files is kept for replicas, as 500Gi (default: what the disk "
        "holds)",
    )
    parser.add_argument(
        "--copy-model-files",
        action="store_true",
        help="copy models' files also to engines of this machine, which do not see this process's "
        "files, as where it runs in a container",
    )
    parser.add_argument(
        "--signing-key-days",
        type=_days,
        default=DEFAULT_KEY_AGE / _DAY,
        metavar="DAYS",
        help="after how long a key of session tokens is followed by another (default: "
        "%(default)g); podbay key rotate does so at once",
    )
    parser.add_argument(
        "--lease-seconds",
        type=_lease_seconds,
        default=5.0,
        metavar="SECONDS",
        help="of several session managers on one database one leads; without a sign of life from "
        "it for so long, another one takes over (default: %(default)s)",
    )
    parser.add_argument(
        "--advertise-address",
        type=_address,
        metavar="HOST:PORT",
        help="where others reach this session manager, for those who ask one that stands by "
        "(default: where it listens)",
    )
    parser.add_argument(
        "--share-seconds",
        type=_lease_seconds,
        default=20.0,
        metavar="SECONDS",
        help="of several routers each has a share of each limit; that of one that is silent for so "
        "long is given to the others (default: %(default)s)",
    )
    parser.add_argument(
        "--stop-replicas-on-exit",
        action="store_true",
        help="end all replicas when this process is asked to end; their sessions stay, and their "
        "replicas are started again with the session manager",
    )
    return parser


def _lease_seconds(text: str) -> float:
    value = float(text)
    if not _LEAST_LEASE_SECONDS <= value <= _MOST_LEASE_SECONDS:
        raise argparse.ArgumentTypeError(
            f"must be from {_LEAST_LEASE_SECONDS:g} to {_MOST_LEASE_SECONDS:g} seconds"
        )
    return value


def _address(text: str) -> str:
    try:
        split_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _drivers(options: argparse.Namespace) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in options.drivers.split(",")))
    chosen = tuple(name for name in names if name)
    for name in chosen:
        if name not in DRIVERS:
            raise SettingsError(f"There is no driver {name!r}. There are: {', '.join(DRIVERS)}.")
    if (
        "process" in chosen
        and not is_loopback(options.listen)
        and not options.allow_process_driver_off_loopback
    ):
        raise SettingsError(
            f"The process driver runs commands of callers as this user, and {options.listen} can "
            "be reached from other machines. Listen on 127.0.0.1, leave the driver out, or allow "
            "it: --allow-process-driver-off-loopback."
        )
    return chosen


def main() -> int:
    """Run the session manager until it is asked to end, and return the exit code."""
    options = _parser().parse_args()

    async def work(stop: Stop) -> None:
        registry = options.registry_endpoint or ("127.0.0.1:" + ("7111" if options.tls else "7101"))
        transport = transport_of(options, SESSION_MANAGER, peers=[registry])
        settings = Settings(
            listen=options.listen,
            data_dir=options.data_dir,
            database=chosen_database(options, "session_manager"),
            service_token=transport.service_token,
            tls=transport.tls,
            registry_endpoint=registry,
            drivers=_drivers(options),
            mock_hosts=options.mock_hosts,
            stop_replicas_on_exit=options.stop_replicas_on_exit,
            drain_seconds=options.drain_seconds,
            policy=Policy(node_grace=options.node_grace),
            nodes=None if options.nodes is None else read_nodes(options.nodes),
            runner_kinds=read_runner_kinds(options.runner_kinds),
            allow_egress=options.allow_egress,
            allow_root=options.allow_root_images,
            unbounded_scratch=options.allow_unbounded_scratch,
            gpu_probe_image=options.gpu_probe_image,
            gpu_probe_seconds=options.gpu_probe_interval,
            model_cache_bytes=options.model_cache_quota,
            copy_model_files=options.copy_model_files,
            key_age=options.signing_key_days * _DAY,
            lease_seconds=options.lease_seconds,
            share_seconds=options.share_seconds,
            advertise_address=options.advertise_address or "",
            audit=retention_of(options),
        )
        await serve_until(stop, serving(settings), options, transport.service_address)

    return run(
        work,
        name="session-manager",
        log_level=options.log_level,
        exit_with_parent=options.exit_with_parent,
    )
