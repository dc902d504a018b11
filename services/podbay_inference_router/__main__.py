"""The command line of the inference router."""

import argparse
import os
import sys
from collections.abc import Sequence

from podbay.schema.identities import INFERENCE_ROUTER
from podbay_inference_router.exposition import check_available
from podbay_inference_router.router_id import held_home
from podbay_inference_router.settings import Settings
from podbay_inference_router.succession import Afterlife
from podbay_kit.process import Stop, common_options, run
from podbay_kit.starting import split_address, uncollected
from podbay_kit.transport import transport_of, transport_options

__all__ = ["main"]

_MAX_DEFAULT_WORKERS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the router and return its exit code.

    Args:
        arguments: The command line without the program; that of the process unless given.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    workers = options.workers or default_workers(os.cpu_count() or 1)
    settings = Settings(
        queue_length=options.queue_length,
        queue_timeout=options.queue_timeout,
        settle_seconds=options.settle_seconds,
        call_timeout=options.call_timeout,
        max_body_bytes=options.max_body_bytes,
        max_answer_bytes=options.max_answer_bytes,
        account_in_flight=options.account_in_flight,
        account_queue_length=options.account_queue_length,
        account_queue_timeout=options.account_queue_timeout,
        retry_ratio=options.retry_ratio,
        failures_in_row=options.failures_in_row,
        leases=options.lease_file is not None,
        meters=options.metrics_listen is not None,
        workers=workers,
        worker_index=options.worker or 0,
    )

    afterlife = (
        None
        if options.outlive is None
        else Afterlife(options.data_dir, options.run_name, options.outlive)
    )

    async def serve_until(stop: Stop) -> None:
        if options.metrics_listen is not None:
            check_available()
        # Who only watches workers needs neither gRPC nor what a call needs.
        if options.worker is not None:
            with uncollected():
                from podbay_inference_router.worker import serve  # noqa: PLC0415 # heavy

            await serve(options, settings, stop, afterlife)
            return
        with held_home(options.data_dir) as home:
            if workers == 1:
                options.router_id = home.router_id
                with uncollected():
                    from podbay_inference_router.worker import serve  # noqa: PLC0415 # heavy

                await serve(options, settings, stop)
                return
            from podbay_inference_router.workers import supervise  # noqa: PLC0415 # as above

            # Each worker looks for itself; what is wrong is told once, and before any is started.
            peers = options.session_manager_endpoint.split(",")
            transport_of(options, INFERENCE_ROUTER, peers=peers)
            await supervise(arguments, options, workers, stop, home)

    name = "router" if options.worker is None else f"router-worker-{options.worker}"
    return run(
        serve_until,
        name=name,
        log_level=options.log_level,
        exit_with_parent=options.exit_with_parent,
        outlive=None if afterlife is None else afterlife.wait,
    )


def default_workers(cpus: int) -> int:
    """Give the number of workers for a machine, unless somebody says."""
    return max(1, min(_MAX_DEFAULT_WORKERS, cpus))


def _parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="podbay-inference-router",
        description="Passes calls to the replicas of sessions.",
        allow_abbrev=False,
    )
    common_options(parser, port=7103)
    transport_options(parser, service_port=None)
    parser.add_argument(
        "--session-manager-endpoint",
        required=True,
        metavar="HOST:PORT",
        help="the session manager, which tells the routes; with --tls its address for services; of "
        "several all, by commas",
    )
    parser.add_argument(
        "--workers",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="processes that share the port (default: one a processor, at most 4)",
    )
    parser.add_argument(
        "--queue-length",
        type=_at_least(0),
        default=defaults.queue_length,
        metavar="N",
        help="the most calls of a session that wait, at each worker (default: %(default)s)",
    )
    parser.add_argument(
        "--queue-timeout",
        type=_seconds,
        default=defaults.queue_timeout,
        metavar="S",
        help="how long a call waits for a replica; 0 refuses at once (default: %(default)s)",
    )
    parser.add_argument(
        "--settle-seconds",
        type=_seconds,
        default=defaults.settle_seconds,
        metavar="S",
        help="how long a call waits for news of a session not known yet (default: %(default)s)",
    )
    parser.add_argument(
        "--call-timeout",
        type=_seconds,
        default=defaults.call_timeout,
        metavar="S",
        help="how long a call without a deadline may take (default: %(default)s)",
    )
    parser.add_argument(
        "--max-body-bytes",
        type=_at_least(1),
        default=defaults.max_body_bytes,
        metavar="N",
        help="the largest request body (default: %(default)s)",
    )
    parser.add_argument(
        "--max-answer-bytes",
        type=_at_least(1),
        default=defaults.max_answer_bytes,
        metavar="N",
        help="the largest answer, and the largest piece of one (default: %(default)s)",
    )
    parser.add_argument(
        "--account-in-flight",
        type=_at_least(0),
        default=defaults.account_in_flight,
        metavar="N",
        help="the most calls of one account that run at this router, over all its sessions; 0 for "
        "no limit (default: %(default)s)",
    )
    parser.add_argument(
        "--account-queue-length",
        type=_at_least(0),
        default=defaults.account_queue_length,
        metavar="N",
        help="the most calls of one account that wait, over all its sessions, at each worker; "
        "0 for no limit of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--account-queue-timeout",
        type=_seconds,
        default=defaults.account_queue_timeout,
        metavar="S",
        help="how long a call waits because its account has its most running (default: as long as "
        "the queue allows)",
    )
    parser.add_argument(
        "--retry-ratio",
        type=_share,
        default=defaults.retry_ratio,
        metavar="R",
        help="the share of a session's calls that may be sent a second time, where that is safe "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--failures-in-row",
        type=_at_least(0),
        default=defaults.failures_in_row,
        metavar="N",
        help="how many failed calls in a row set a replica aside; 0 for never "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--metrics-listen",
        type=_address,
        metavar="HOST:PORT",
        help="where metrics are shown to Prometheus, as 127.0.0.1:9103; needs the extra "
        "'telemetry' (default: nowhere)",
    )
    # What the parent tells its workers: their number, the descriptor of the file of leases, which
    # router they are of, whether they replace one that died, or take over from those of a router
    # that did, and for whom they serve on when their own router does.
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--lease-file", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--router-id", default="", help=argparse.SUPPRESS)
    parser.add_argument("--replacement", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--take-over", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--run-name", default="", help=argparse.SUPPRESS)
    parser.add_argument("--outlive", type=int, help=argparse.SUPPRESS)
    return parser


class _at_least:  # noqa: N801 # read as a function: the type of an option
    """The type of an option: an integer from a smallest one on."""

    def __init__(self, smallest: int) -> None:
        self._smallest = smallest

    def __call__(self, text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be an integer, not {text!r}") from error
        if value < self._smallest:
            raise argparse.ArgumentTypeError(f"must be at least {self._smallest}")
        return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be a share from 0 to 1")
    return value


def _address(text: str) -> str:
    split_address(text)
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds, 0 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
