"""A Docker Engine through docker-py: blocking calls with bounded times, and errors of our own.

The only module that imports `docker`, and only when an engine is used: the extra may be absent.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from podbay_kit.process import SettingsError
from podbay_session_manager.declared_nodes import EngineTls
from podbay_session_manager.drivers.contract import DriverUnreachableError

__all__ = [
    "EngineClient",
    "EngineConflictError",
    "EngineError",
    "EngineNotFoundError",
    "check_installed",
]

Json = Mapping[str, Any]

# The oldest API with all that is used here: Docker 20.10.
_API_VERSION: Final = "1.41"
_TEXT_LIMIT: Final = 500
_OUTPUT_BYTES: Final = 1 << 16


class EngineError(Exception):
    """The engine refused.

    Args:
        status: The HTTP status; 0 where it refused within a stream.
        text: What it said.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class EngineNotFoundError(EngineError):
    """The engine knows nothing of this name."""


class EngineConflictError(EngineError):
    """What is asked does not fit the state of the thing, or its name is taken."""


def check_installed() -> None:
    """Let those pass who have docker-py.

    Raises:
        SettingsError: The extra is not installed.
    """
    try:
        import docker  # noqa: F401, PLC0415 # the extra may be absent, and costs 100 ms
    except ImportError as error:
        raise SettingsError(
            "Nodes with container engines need docker-py, which is not installed. Install the "
            "extra: pip install 'podbay[docker]'."
        ) from error


class EngineClient:
    """One client, to be used by several threads at once.

    Every method may raise `DriverUnreachableError`, `EngineError` or one of its subclasses.

    Args:
        address: "unix://...", "tcp://..." or "http://...".
        tls: The files of a TLS connection.
        timeout: How long the engine may be silent, in seconds, also within a stream.
    """

    def __init__(self, address: str, tls: EngineTls | None, timeout: float) -> None:
        self._address = address
        self._tls = tls
        self._timeout = timeout
        self._made: Any = None
        self._closed = False
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections; a stream that is read ends."""
        with self._lock:
            self._closed = True
            made = self._made
        if made is not None:
            made.close()

    def ping(self) -> None:
        """Return where the engine answers."""
        with self._translated() as api:
            api.ping()

    def info(self) -> Json:
        """Return what the engine tells of its machine."""
        with self._translated() as api:
            told: Json = api.info()
            return told

    def containers(self, labels: Mapping[str, str]) -> Sequence[Json]:
        """Return the containers with these labels, also those that have ended."""
        with self._translated() as api:
            found: Sequence[Json] = api.containers(all=True, filters=_filters(labels))
            return found

    def inspect(self, container: str) -> Json:
        """Return all about a container."""
        with self._translated() as api:
            told: Json = api.inspect_container(container)
            return told

    def create(self, name: str, config: Json) -> str:
        """Create a container, which is not started, and return its id."""
        with self._translated() as api:
            return str(api.create_container_from_config(dict(config), name)["Id"])

    def start(self, container: str) -> None:
        """Start a container."""
        with self._translated() as api:
            api.start(container)

    def kill(self, container: str, signal: str) -> None:
        """Send a signal to the first process of a container."""
        with self._translated() as api:
            api.kill(container, signal)

    def lift_cpu_limit(self, container: str) -> None:
        """Let a container use as much CPU time as there is."""
        with self._translated() as api:
            api.update_container(container, cpu_quota=-1)

    def wait(self, container: str) -> int:
        """Return the exit code of a container once it has ended."""
        with self._translated() as api:
            return int(api.wait(container, timeout=int(self._timeout))["StatusCode"])

    def execute(self, container: str, command: Sequence[str]) -> tuple[int, str]:
        """Run a program in a running container; return its exit code and what it wrote, bounded."""
        written = bytearray()
        with self._translated() as api:
            made = api.exec_create(container, list(command))["Id"]
            for piece in api.exec_start(made, stream=True):
                written += piece
                if len(written) >= _OUTPUT_BYTES:
                    break
            code = api.exec_inspect(made)["ExitCode"]
        # None: it was cut off, and still writes.
        return -1 if code is None else int(code), written.decode(errors="replace")

    def remove(self, container: str, *, force: bool = False) -> None:
        """Remove a container and its nameless volumes; it must have ended unless forced."""
        with self._translated() as api:
            api.remove_container(container, v=True, force=force)

    def image(self, reference: str) -> Json:
        """Return what is known of an image that the engine has."""
        with self._translated() as api:
            told: Json = api.inspect_image(reference)
            return told

    def pull(self, reference: str, told: Callable[[Json], None]) -> None:
        """Pull an image by its whole name.

        Args:
            reference: The name, as "host/name@sha256:...".
            told: Is given each message of progress.
        """
        with self._translated() as api:
            for line in api.pull(reference, stream=True, decode=True):
                if "error" in line:
                    raise EngineError(0, str(line["error"])[:_TEXT_LIMIT])
                told(line)

    def log(self, container: str, since: float, take: Callable[[bytes], bool]) -> None:
        """Read the log of a container up to now.

        Args:
            container: The container.
            since: From when on, in seconds since 1970; 0 for the beginning.
            take: Is given each message with its time before it; returns whether it wants more.
        """
        with self._translated() as api:
            stream = api.logs(
                container,
                stdout=True,
                stderr=True,
                stream=True,
                follow=False,
                timestamps=True,
                since=since or None,
            )
            for message in stream:
                if not take(message):
                    break

    def events(self, labels: Mapping[str, str], told: Callable[[], None]) -> None:
        """Call back at first and on every event of containers with these labels, to its end."""
        with self._translated() as api:
            filters = {**_filters(labels), "type": ["container"]}
            stream = api.events(filters=filters, decode=True)
            # What happened before is in no event.
            told()
            for _ in stream:
                told()

    def ran_out_of_memory(self, container: str, since: float, until: float) -> bool:
        """Return whether a process of a container was killed because it ran out of memory.

        Args:
            container: The id of the container.
            since: From when on, in seconds since 1970 of the engine's clock.
            until: Up to when; where that is to come, it is waited for.
        """
        filters = {"type": ["container"], "container": [container], "event": ["oom"]}
        with self._translated() as api:
            stream = api.events(f"{since:.9f}", f"{until:.9f}", filters=filters, decode=True)
            return next(iter(stream), None) is not None

    def networks(self, labels: Mapping[str, str]) -> Sequence[Json]:
        """Return the networks with these labels."""
        with self._translated() as api:
            found: Sequence[Json] = api.networks(filters=_filters(labels))
            return found

    def create_network(
        self,
        name: str,
        *,
        internal: bool,
        options: Mapping[str, str],
        labels: Mapping[str, str],
        subnet: str = "",
    ) -> str:
        """Create a network and return its id; of the engine's choice of subnet unless given."""
        ipam = {"Driver": "default", "Config": [{"Subnet": subnet}]} if subnet else None
        with self._translated() as api:
            made = api.create_network(
                name,
                driver="bridge",
                internal=internal,
                options=dict(options),
                labels=dict(labels),
                check_duplicate=True,
                ipam=ipam,
            )
            return str(made["Id"])

    def remove_network(self, name: str) -> None:
        """Remove a network that no container uses."""
        with self._translated() as api:
            api.remove_network(name)

    def volumes(self, labels: Mapping[str, str]) -> Sequence[Json]:
        """Return the volumes with these labels."""
        with self._translated() as api:
            found: Sequence[Json] = api.volumes(filters=_filters(labels)).get("Volumes") or ()
            return found

    def create_volume(
        self, name: str, labels: Mapping[str, str], options: Mapping[str, str] | None = None
    ) -> None:
        """Create a volume on the engine's disk; nothing happens where it is there."""
        with self._translated() as api:
            api.create_volume(name, driver_opts=dict(options or {}), labels=dict(labels))

    def remove_volume(self, name: str) -> None:
        """Remove a volume that no container uses."""
        with self._translated() as api:
            api.remove_volume(name)

    def put_archive(self, container: str, path: str, archive: bytes | Iterator[bytes]) -> None:
        """Unpack a tar archive into a folder of a container."""
        with self._translated() as api:
            api.put_archive(container, path, archive)

    def has_path(self, container: str, path: str) -> bool:
        """Return whether a container has a file or folder."""
        try:
            with self._translated() as api:
                stream, _ = api.get_archive(container, path)
                for _ in stream:
                    break
        except EngineNotFoundError:
            return False
        return True

    def _api(self) -> Any:
        with self._lock:
            if self._closed:
                raise DriverUnreachableError("the connection to the engine was closed")
            if self._made is None:
                self._made = _make(self._address, self._tls, self._timeout)
            return self._made

    @contextmanager
    def _translated(self) -> Iterator[Any]:
        """Give the client of docker-py, and turn its errors into ours."""
        import docker.errors  # noqa: PLC0415 # see check_installed
        import requests  # noqa: PLC0415 # comes with docker-py
        import urllib3  # noqa: PLC0415 # comes with docker-py

        from podbay_session_manager.drivers.containers import transport  # noqa: PLC0415

        try:
            yield self._api()
        except docker.errors.APIError as error:
            status = int(error.status_code or 0)
            text = str(error.explanation or error)[:_TEXT_LIMIT].strip()
            kind = {404: EngineNotFoundError, 409: EngineConflictError}.get(status, EngineError)
            raise kind(status, text) from error
        except docker.errors.DockerException as error:
            raise DriverUnreachableError(
                f"The engine at {self._address} cannot be used: {str(error)[:_TEXT_LIMIT]}"
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise DriverUnreachableError(
                f"The engine at {self._address} {transport.what_happened(error, self._timeout)}"
            ) from error
        except (struct.error, docker.errors.StreamParseError, AttributeError, ValueError) as error:
            # How docker-py takes a stream that was cut; the latter two where the client was closed.
            if isinstance(error, AttributeError | ValueError) and not self._closed:
                raise
            raise DriverUnreachableError(
                f"The engine at {self._address} broke off in the middle of an answer."
            ) from error


def _make(address: str, tls: EngineTls | None, timeout: float) -> Any:
    import docker  # noqa: PLC0415 # see check_installed
    import docker.tls  # noqa: PLC0415

    from podbay_session_manager.drivers.containers import transport  # noqa: PLC0415

    class Client(docker.APIClient):
        """A client whose streams have timeouts, and end when it is closed: docker-py's do not."""

        streams: list[Any]
        pool: Any = None
        ended = False

        def _set_request_timeout(self, kwargs: dict[str, Any]) -> dict[str, Any]:
            return {**kwargs, "timeout": self.timeout}

        def _disable_socket_timeout(self, _socket: object) -> None:
            return

        def send(self, request: Any, **kwargs: Any) -> Any:
            response = super().send(request, **kwargs)
            if kwargs.get("stream"):
                self.streams.append(response)
                if self.ended:
                    # Closed while the answer began.
                    transport.cut(response)
            return response

        def close(self) -> None:
            self.ended = True
            for response in self.streams:
                transport.cut(response)
            if self.pool is not None:
                self.pool.close()
            super().close()

    config = None
    if tls is not None:
        for file in (tls.ca, tls.cert, tls.key):
            _check_readable(address, file)
        config = docker.tls.TLSConfig(client_cert=(tls.cert, tls.key), ca_cert=tls.ca, verify=True)
    kind: Any = Client
    made: Any = kind(base_url=address, version=_API_VERSION, timeout=timeout, tls=config or False)
    made.streams = []
    # Else REQUESTS_CA_BUNDLE and proxies of the environment would win over the node's declaration.
    made.trust_env = False
    if address.startswith("unix://"):
        made.pool = transport.unix_pool(address.removeprefix("unix://"), timeout)
        made.get_adapter(made.base_url).get_connection = lambda *_: made.pool
    return made


def _check_readable(address: str, file: str) -> None:
    """Let a file of a TLS connection pass: docker-py does not say which one is not there.

    Raises:
        DriverUnreachableError: It cannot be read.
    """
    try:
        with Path(file).open("rb"):
            return
    except OSError as error:
        raise DriverUnreachableError(
            f"The engine at {address} cannot be reached over TLS: {file} cannot be read "
            f"({error.strerror}). It lies on the session manager's machine, or the node's tls "
            "names another one."
        ) from error


def _filters(labels: Mapping[str, str]) -> dict[str, list[str]]:
    return {"label": [f"{name}={value}" if value else name for name, value in labels.items()]}
