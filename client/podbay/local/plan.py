"""What `podbay up` starts: settings in, command lines out."""

from __future__ import annotations

import re
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from podbay.local import ports
from podbay.local.faults import LocalError
from podbay.local.state import DataDir
from podbay.schema.identities import INFERENCE_ROUTER, REGISTRY, SESSION_MANAGER

__all__ = [
    "ALL_DRIVERS",
    "DRIVERS",
    "ServiceSpec",
    "UpSettings",
    "check_ports",
    "container_flags",
    "plan_services",
    "read_service_option",
]

DRIVERS = ("process", "inprocess", "attached")
ALL_DRIVERS = (*DRIVERS, "docker")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_INSIDE = "127.0.0.1"
_ROUTER_CONFIRMATIONS = 6
_FOLDERS = {INFERENCE_ROUTER: "router"}
_SERVICES = (REGISTRY, SESSION_MANAGER, INFERENCE_ROUTER)
_OPTION = re.compile("[a-z]+(-[a-z]+)*")
# By these the services find their data, each other and what they are to each other.
_OWN_OPTIONS = frozenset(
    {
        *("listen", "data-dir", "address-file", "exit-with-parent", "drain-seconds"),
        *("database", "database-file", "tls", "service-listen", "service-token-file"),
        *("allow-plain-text-off-loopback", "allow-process-driver-off-loopback"),
        *("registry-endpoint", "session-manager-endpoint", "inference-router-endpoint"),
        *("admin-token-file", "reset-admin-token", "keep-model-files", "advertise-address"),
        *("drivers", "mock-hosts", "stop-replicas-on-exit", "workers", "metrics-listen"),
        *("model-quota", "account-quota", "no-fetch", "hub-token-file", "signing-key-days"),
        *("nodes", "runner-kinds", "allow-egress", "allow-root-images", "node-grace"),
        *("allow-unbounded-scratch",),
        *("gpu-probe-image", "gpu-probe-interval", "model-cache-quota", "take-over"),
    }
)
_WILDCARD = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class UpSettings:
    """The options of `podbay up`.

    Attributes:
        registry_port: The registry's port; 0 for a free one.
        session_manager_port: The session manager's port; 0 for a free one.
        inference_router_port: The router's port; 0 for a free one.
        host: The address to listen on.
        advertised_host: The name under which clients reach this machine; `host` unless said.
        workers: How many processes the router has; its own default where None.
        session_managers: How many session managers there are, of which one leads; more than one
            need a PostgreSQL.
        signing_key_days: After how many days a key of session tokens is followed by another; the
            session manager's own default where None.
        drivers: The replica drivers; None for those that are safe on `host`.
        enable_process_driver: Allow the process driver although `host` is not loopback.
        drain_seconds: How long each service may take to finish its calls when it stops.
        model_quota: The most bytes that the files of models may have, as "500Gi"; None for what
            the disk holds.
        account_quota: What an account may have that is made from now on, as "sessions=4".
        no_fetch: Whether models from hubs and Git are registered only.
        hub_token_file: A token for the Hugging Face Hub; None for none.
        reset_admin_token: Revoke the administrator's token and write a new one.
        keep_model_files: Keep models' files in this data folder from now on, and remove those that
            the database does not know.
        nodes: A TOML file that declares nodes; None for none.
        runner_kinds: A TOML file that changes how kinds of runners are run; None for none.
        allow_egress: Let replicas open connections to the outside that ask for it.
        allow_root_images: Run images as root that name no user.
        allow_unbounded_scratch: Let scratch space and images' volumes take a node's disk without
            bounds.
        node_grace: Seconds that a node may be out of reach before its replicas are placed
            elsewhere; the session manager's own default where None.
        gpu_probe_image: An image with nvidia-smi, to look at nodes with GPUs; None for no look.
        gpu_probe_interval: Seconds between two looks at the GPUs of a node, and into the replicas
            that have some; the session manager's own default where None.
        model_cache_quota: How much of models' files is kept for replicas, as "500Gi"; None for what
            the disk holds.
        metrics_listen: Where the router shows its numbers to Prometheus, as "127.0.0.1:9103"; None
            for nowhere.
        service_options: Options of the services that `podbay up` has not itself, each as service,
            option and value, as ("inference-router", "max-body-bytes", "268435456"); the value is
            None for one that takes none.
        tls: The folder of the services' certificates (`podbay certs`); None for those of the data
            folder where `host` is not loopback.
        plain_text: Speak plain text although `host` is not loopback.
        manager_ports: The ports of the session managers after the first; found at the start.
        service_ports: Where the registry and then each session manager expect each other and the
            router, on 127.0.0.1; found at the start.
    """

    registry_port: int = 7101
    session_manager_port: int = 7102
    inference_router_port: int = 7103
    host: str = "127.0.0.1"
    advertised_host: str | None = None
    workers: int | None = None
    session_managers: int = 1
    signing_key_days: float | None = None
    drivers: tuple[str, ...] | None = None
    enable_process_driver: bool = False
    drain_seconds: float = 10.0
    model_quota: str | None = None
    account_quota: tuple[str, ...] = ()
    no_fetch: bool = False
    hub_token_file: Path | None = None
    reset_admin_token: bool = False
    keep_model_files: bool = False
    nodes: Path | None = None
    runner_kinds: Path | None = None
    allow_egress: bool = False
    node_grace: float | None = None
    allow_root_images: bool = False
    allow_unbounded_scratch: bool = False
    gpu_probe_image: str | None = None
    gpu_probe_interval: float | None = None
    model_cache_quota: str | None = None
    metrics_listen: str | None = None
    service_options: tuple[tuple[str, str, str | None], ...] = ()
    tls: Path | None = None
    plain_text: bool = False
    manager_ports: tuple[int, ...] = ()
    service_ports: tuple[int, ...] = (0, 0)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the services."""
        return self.host in _LOOPBACK or self.host.startswith("127.")

    @property
    def speaks_tls(self) -> bool:
        """Whether the services speak TLS."""
        return self.tls is not None or not (self.loopback or self.plain_text)

    def certificates(self, data: DataDir) -> Path | None:
        """Return the folder of the services' certificates; None for plain text.

        Raises:
            LocalError: Both are asked for.
        """
        if self.tls is not None and self.plain_text:
            raise LocalError(
                "TLS_OR_PLAIN_TEXT",
                "certificates were named, and plain text was asked for",
                way_out="leave out --tls, or --allow-plain-text-off-loopback",
            )
        if self.tls is not None:
            return self.tls.expanduser().absolute()
        return data.certificates if self.speaks_tls else None

    def certificate_names(self) -> tuple[str, ...]:
        """Return the names under which clients reach the services, beside those of loopback."""
        names = dict.fromkeys((self.local_host, self.public_host, socket.gethostname().lower()))
        return tuple(name for name in names if name and name not in _LOOPBACK)

    def check_database(self, data: DataDir) -> None:
        """Look whether the data folder's database is one for so many session managers.

        Raises:
            LocalError: There is no PostgreSQL for more than one.
        """
        if self.session_managers > 1 and not data.database_file.exists():
            raise LocalError(
                "POSTGRESQL_NEEDED",
                f"{self.session_managers} session managers were asked for, and the data folder "
                f"{data.path} keeps its data in SQLite files",
                way_out="name a PostgreSQL with --database or in PODBAY_DATABASE, or leave out "
                "--session-managers",
            )

    @property
    def local_host(self) -> str:
        """The address at which this machine reaches the services."""
        return _WILDCARD.get(self.host, self.host)

    @property
    def public_host(self) -> str:
        """The name that clients are told."""
        return self.advertised_host or self.local_host

    def allowed_drivers(self) -> tuple[str, ...]:
        """Return the drivers that the session manager shall use.

        The process driver runs commands as the operator's user. Where others can reach the
        services it is off unless it was asked for by name.

        Raises:
            LocalError: The process driver was named for a host that others reach, without
                `enable_process_driver`.
        """
        process_allowed = self.loopback or self.enable_process_driver
        if self.drivers is None:
            local = DRIVERS if process_allowed else ("inprocess",)
            # Who declares nodes wants containers.
            return local if self.nodes is None else (*local, "docker")
        if "process" in self.drivers and not process_allowed:
            raise LocalError(
                "PROCESS_DRIVER_NOT_ALLOWED",
                f"the process driver runs commands as your user, and {self.host} can be reached "
                "by others",
                way_out="leave it out of --drivers, or allow it with --enable-process-driver",
            )
        return self.drivers


@dataclass(frozen=True)
class ServiceSpec:
    """One service and how it is started.

    Attributes:
        name: The name for people, the log and up.json.
        service: Which service it is, as "session-manager", of which there may be several. Those
            end together: otherwise one that stands by would lead while the others end.
        argv: The command line.
        host: Where it is reached on this machine.
        port: Its port.
        stop_seconds: How long it may take to end after SIGTERM before it is killed.
        address_file: Where it writes its process id once it listens; None where it does not.
        after_others: Whether it starts only when those before it are healthy.
        confirmations: How many health checks in a row must succeed. A service of several
            processes that share a port answers each check with any of them.
        takes_over: Whether it starts beside what its dead predecessor left on the port, and takes
            the port over.
        once: What comes behind the command line at the first start only, and at no restart.
    """

    name: str
    service: str
    argv: tuple[str, ...]
    host: str
    port: int
    stop_seconds: float
    address_file: Path | None = None
    after_others: bool = False
    confirmations: int = 1
    takes_over: bool = False
    once: tuple[str, ...] = ()

    @property
    def endpoint(self) -> str:
        """The address on this machine, as "127.0.0.1:7101"."""
        return ports.join(self.host, self.port)


def read_service_option(text: str) -> tuple[str, str, str | None]:
    """Return service, option and value of "inference-router.max-body-bytes=268435456".

    Raises:
        ValueError: It has another form, or the option is one that `podbay up` sets.
    """
    name, equals, value = text.partition("=")
    service, _, option = name.partition(".")
    if service not in _SERVICES or not _OPTION.fullmatch(option):
        raise ValueError(
            f"{text!r} is not SERVICE.OPTION=VALUE, as inference-router.max-body-bytes=268435456; "
            f"the services are {', '.join(_SERVICES)}"
        )
    if option in _OWN_OPTIONS:
        raise ValueError(f"{option!r} is what `podbay up` sets itself: see its own options")
    return service, option, value if equals else None


def _further_options(settings: UpSettings, service: str) -> tuple[str, ...]:
    """Return the options that were named for a service, each as one part of its command line."""
    return tuple(
        f"--{option}" if value is None else f"--{option}={value}"
        for of, option, value in settings.service_options
        if of == service
    )


def _off_loopback(settings: UpSettings) -> tuple[str, ...]:
    allowed = settings.enable_process_driver and "process" in settings.allowed_drivers()
    return ("--allow-process-driver-off-loopback",) if allowed else ()


def _model_options(settings: UpSettings) -> tuple[str, ...]:
    token_file = settings.hub_token_file
    return (
        *(("--model-quota", settings.model_quota) if settings.model_quota else ()),
        *(("--no-fetch",) if settings.no_fetch else ()),
        *(part for limit in settings.account_quota for part in ("--account-quota", limit)),
        *(("--hub-token-file", str(token_file.absolute())) if token_file else ()),
    )


def _once(settings: UpSettings) -> tuple[str, ...]:
    """Return what the registry is asked to do once."""
    return (
        *(("--reset-admin-token",) if settings.reset_admin_token else ()),
        *(("--keep-model-files",) if settings.keep_model_files else ()),
    )


def _container_options(settings: UpSettings) -> tuple[str, ...]:
    options: tuple[str, ...] = ()
    if settings.nodes is not None:
        options += ("--nodes", str(settings.nodes.absolute()))
    if settings.runner_kinds is not None:
        options += ("--runner-kinds", str(settings.runner_kinds.absolute()))
    if settings.node_grace is not None:
        options += ("--node-grace", f"{settings.node_grace:f}")
    if settings.gpu_probe_interval is not None:
        options += ("--gpu-probe-interval", f"{settings.gpu_probe_interval:f}")
    return (*options, *container_flags(settings))


def container_flags(settings: UpSettings) -> tuple[str, ...]:
    """Return the options for containers that `podbay up` and the session manager both have."""
    return (
        *(("--allow-egress",) if settings.allow_egress else ()),
        *(("--allow-root-images",) if settings.allow_root_images else ()),
        *(("--allow-unbounded-scratch",) if settings.allow_unbounded_scratch else ()),
        *(("--gpu-probe-image", settings.gpu_probe_image) if settings.gpu_probe_image else ()),
        *(
            ("--model-cache-quota", settings.model_cache_quota)
            if settings.model_cache_quota
            else ()
        ),
    )


def _tls_options(
    settings: UpSettings, data: DataDir, name: str, service_port: int | None
) -> tuple[str, ...]:
    """Return how a service speaks to others."""
    folder = settings.certificates(data)
    if folder is None:
        return (
            *("--service-token-file", str(data.service_token_file)),
            *(() if settings.loopback else ("--allow-plain-text-off-loopback",)),
        )
    # The services find each other on this machine.
    listen = ("--service-listen", ports.join(_INSIDE, service_port)) if service_port else ()
    return ("--tls", str(folder / name), *listen)


def check_ports(settings: UpSettings) -> UpSettings:
    """Return the settings with a number for every port.

    Raises:
        LocalError: A port that was named is in use.
    """
    fields = ("registry_port", "session_manager_port", "inference_router_port")
    numbers: dict[str, int] = {name: getattr(settings, name) for name in fields}
    for name, port in numbers.items():
        option = "--" + name.replace("_", "-")
        if port and list(numbers.values()).count(port) > 1:
            raise LocalError(
                "PORT_TAKEN",
                f"port {port} was named for more than one service",
                way_out=f"name another port with {option}, or 0 for a free one",
            )
        if port and not ports.is_free(settings.host, port):
            owner = ports.port_owner(port)
            raise LocalError(
                "PORT_TAKEN",
                f"port {port} on {settings.host} is in use" + (f" by {owner}" if owner else ""),
                way_out=f"name another port with {option}, or 0 for a free one; "
                "`podbay status` shows whether it is another `podbay up`",
            )
    if settings.metrics_listen is not None:
        _check_metrics(settings.metrics_listen, tuple(numbers.values()))
    for name in fields:
        if not numbers[name]:
            numbers[name] = ports.choose_port(settings.host, tuple(numbers.values()))
    further: list[int] = []
    for _ in range(settings.session_managers - 1):
        further.append(ports.choose_port(settings.host, (*numbers.values(), *further)))
    inside: list[int] = []
    for _ in range(1 + settings.session_managers if settings.speaks_tls else 0):
        taken = (*numbers.values(), *further, *inside)
        inside.append(ports.choose_port(_INSIDE, taken))
    return replace(
        settings,
        manager_ports=tuple(further),
        service_ports=tuple(inside) or settings.service_ports,
        registry_port=numbers["registry_port"],
        session_manager_port=numbers["session_manager_port"],
        inference_router_port=numbers["inference_router_port"],
    )


def _check_metrics(address: str, others: tuple[int, ...]) -> None:
    host, port = ports.split(address)
    if port in others or not ports.is_free(host, port):
        raise LocalError(
            "PORT_TAKEN",
            f"port {port} on {host}, where metrics shall be shown, is in use",
            way_out="name another one with --metrics-listen",
        )


def plan_services(
    settings: UpSettings, data: DataDir, python: str = sys.executable
) -> list[ServiceSpec]:
    """Return the services in the order in which they start; they stop in the reverse one.

    Args:
        settings: The options, with a number for every port.
        data: The data folder.
        python: The interpreter that has the services.
    """
    managers = (settings.session_manager_port, *settings.manager_ports)
    services = (REGISTRY, *(SESSION_MANAGER for _ in managers), INFERENCE_ROUTER)
    numbers = (settings.registry_port, *managers, settings.inference_router_port)
    local = [ports.join(settings.local_host, port) for port in numbers]
    service_ports: tuple[int | None, ...] = (None,) * len(numbers)
    if settings.certificates(data) is not None:
        service_ports = (*settings.service_ports, None)
        local = [ports.join(_INSIDE, port) for port in settings.service_ports]
    public = [ports.join(settings.public_host, port) for port in numbers]
    own_options = (
        (
            *("--admin-token-file", str(data.admin_token_file)),
            *("--session-manager-endpoint", ",".join(public[1:-1])),
            *("--inference-router-endpoint", public[-1]),
            *_model_options(settings),
        ),
        *(
            (
                *_manager_options(settings, data, registry=local[0]),
                # They name each other.
                *(("--advertise-address", address) if len(managers) > 1 else ()),
            )
            for address in public[1:-1]
        ),
        (
            *("--session-manager-endpoint", ",".join(local[1 : 1 + len(managers)])),
            *(("--workers", str(settings.workers)) if settings.workers else ()),
            *(("--metrics-listen", settings.metrics_listen) if settings.metrics_listen else ()),
        ),
    )
    # A URL with a password is on no command line.
    database = ("--database-file", str(data.database_file)) if data.database_file.exists() else ()
    specs: list[ServiceSpec] = []
    for service, port, service_port, own in zip(
        services, numbers, service_ports, own_options, strict=True
    ):
        count = 1 + sum(1 for spec in specs if spec.service == service)
        name = service if count == 1 else f"{service}-{count}"
        address_file = data.run / f"{name}.json"
        is_router = service == INFERENCE_ROUTER
        argv = (
            *(python, "-m", "podbay_" + service.replace("-", "_")),
            *("--listen", ports.join(settings.host, port)),
            # Several session managers share theirs, where the processes of replicas are found.
            *("--data-dir", str(data.path / _FOLDERS.get(service, service))),
            *_tls_options(settings, data, service, service_port),
            *("--address-file", str(address_file)),
            *("--drain-seconds", f"{settings.drain_seconds:g}"),
            "--exit-with-parent",
            *(() if is_router else database),
            *own,
            *_further_options(settings, service),
        )
        specs.append(
            ServiceSpec(
                name,
                service,
                argv,
                settings.local_host,
                port,
                # The session manager also waits for its replicas to end.
                settings.drain_seconds + (30.0 if service == SESSION_MANAGER else 5.0),
                address_file=address_file,
                # A router that finds no session manager asks again in ever longer pauses.
                after_others=is_router,
                confirmations=_ROUTER_CONFIRMATIONS if is_router else 1,
                takes_over=is_router,
                once=_once(settings) if service == REGISTRY else (),
            )
        )
    return specs


def _manager_options(settings: UpSettings, data: DataDir, registry: str) -> tuple[str, ...]:
    days = settings.signing_key_days
    return (
        *("--registry-endpoint", registry),
        *("--drivers", ",".join(settings.allowed_drivers())),
        *("--mock-hosts", str(data.mock_hosts)),
        "--stop-replicas-on-exit",
        *(("--signing-key-days", f"{days:f}") if days is not None else ()),
        *(() if settings.loopback else _off_loopback(settings)),
        *_container_options(settings),
    )
