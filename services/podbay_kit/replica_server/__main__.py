"""`python -m podbay_kit.replica_server package.module.Class`: a mock as a process of its own."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

import uvloop

from podbay_kit.replica_server.binding import bind
from podbay_kit.replica_server.errors import USAGE_EXIT_CODE, ReplicaStartError
from podbay_kit.replica_server.loading import load_mock
from podbay_kit.replica_server.server import DEFAULT_THREADS, ReplicaServer

USAGE = """\
usage: python -m podbay_kit.replica_server CLASS

Serves a mock over HTTP: GET /ready, POST /{endpoint} with JSON in and out.
CLASS is package.module.Class or package.module:Class.

Environment:
  PORT                        the port to listen on; 0 takes a free one (default 8000)
  PODBAY_REPLICA_HOST         the address to listen on (default 127.0.0.1)
  PODBAY_REPLICA_THREADS      how many calls that may block run at once (default 32)
  PODBAY_REPLICA_STOP_GRACE   seconds that SIGTERM leaves to what runs (default 5)

Exit codes: 0 stopped by a signal, 64 usage, 70 the class cannot be built, 71 the address cannot
be listened on, 78 the class cannot be imported, 98 the port is taken.
"""


class _UsageError(ReplicaStartError):
    exit_code = USAGE_EXIT_CODE


class _StoppedError(BaseException):
    """A signal came before the replica served; no `except Exception` of a mock holds it up."""


@dataclass(frozen=True)
class _Settings:
    path: str
    host: str
    port: int
    threads: int
    stop_grace: float


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Serve until a signal comes.

    Args:
        arguments: The command line, without the program's name.
        environment: The variables that `USAGE` names.

    Returns:
        The exit code.
    """
    if any(argument in {"-h", "--help"} for argument in arguments):
        sys.stdout.write(USAGE)
        return 0
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_early)
    try:
        settings = _read_settings(arguments, environment)
        # The port first: that it is taken should show before a mock is built, which may be slow.
        # The mock here, and not in a thread: it may want the main thread, as for signals.
        listener = bind(settings.host, settings.port)
        mock = load_mock(settings.path)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(mock, listener, settings))
    except ReplicaStartError as error:
        sys.stderr.write(f"podbay replica: {error}\n")
        return error.exit_code
    except _StoppedError:
        return 0


def _stop_early(_number: int, _frame: FrameType | None) -> None:
    raise _StoppedError


def _read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> _Settings:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise _UsageError(
            "name one class: python -m podbay_kit.replica_server package.module.Class "
            "(--help lists the settings)"
        )
    return _Settings(
        path=arguments[0],
        host=environment.get("PODBAY_REPLICA_HOST") or "127.0.0.1",
        port=int(_number(environment, "PORT", 8000, 0, 65535)),
        threads=int(_number(environment, "PODBAY_REPLICA_THREADS", DEFAULT_THREADS, 1, 1024)),
        stop_grace=_number(environment, "PODBAY_REPLICA_STOP_GRACE", 5.0, 0, 86400),
    )


def _number(
    environment: Mapping[str, str], name: str, default: float, least: int, most: int
) -> float:
    """Read a number; a whole one where the default is whole."""
    text = environment.get(name)
    if not text:
        return default
    try:
        value = type(default)(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise _UsageError(f"{name} is {text!r}, not {kind} from {least} to {most}")
    return value


async def _serve(mock: object, listener: socket.socket, settings: _Settings) -> int:
    server = ReplicaServer(
        mock,
        host=settings.host,
        port=settings.port,
        threads=settings.threads,
        listener=listener,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    port = await server.start()
    logger = logging.getLogger("podbay.replica")
    logger.info("%s is ready on http://%s:%d", settings.path, settings.host, port)
    await stop.wait()
    logger.info("stopping")
    await server.stop(settings.stop_grace)
    if server.busy:
        # A call that hangs in a thread could hold up, or even crash, the interpreter's end.
        logger.warning("a call did not end within %g s and is dropped", settings.stop_grace)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
