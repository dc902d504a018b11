"""The command line of the registry."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from podbay.schema.identities import REGISTRY
from podbay_kit.audit_options import add_audit_options, retention_of
from podbay_kit.process import Stop, byte_size, common_options, run, serve_until
from podbay_kit.storage import chosen_database, database_options
from podbay_kit.transport import transport_of, transport_options
from podbay_registry.fetcher import FetchOptions
from podbay_registry.quota_options import default_quota, limit
from podbay_registry.server import Settings, serving


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podbay_registry",
        description="The registry of a Podbay installation: accounts, API tokens, models and "
        "inference services.",
    )
    common_options(parser, port=7101)
    database_options(parser, "registry")
    transport_options(parser, service_port=7111)
    parser.add_argument(
        "--admin-token-file",
        type=Path,
        metavar="FILE",
        help="where the administrator's token is written at the first start (default: "
        "admin-token in the data directory)",
    )
    parser.add_argument(
        "--reset-admin-token",
        action="store_true",
        help="revoke the administrator's token and write a new one, for when the file was lost",
    )
    parser.add_argument(
        "--session-manager-endpoint",
        default="127.0.0.1:7102",
        metavar="HOST:PORT",
        help="the session manager's address, as clients reach it; of several all, by commas "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--inference-router-endpoint",
        default="127.0.0.1:7103",
        metavar="HOST:PORT",
        help="the inference router's address, as clients reach it (default: %(default)s)",
    )
    parser.add_argument(
        "--account-quota",
        action="append",
        type=limit,
        default=[],
        metavar="NAME=NUMBER",
        help="what an account may have that is made from now on, as sessions=4, replicas=8, "
        "gpus.nvidia.com/gpu-t4=2, model-bytes=500Gi or requests-in-flight=64; may be given more "
        "than once (default: no limits)",
    )
    _model_options(parser)
    add_audit_options(parser)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the files of models")
    group.add_argument(
        "--model-quota",
        type=byte_size,
        metavar="SIZE",
        help='the most bytes that they may have, as "500Gi" (default: what the disk holds)',
    )
    group.add_argument(
        "--keep-model-files",
        action="store_true",
        help="keep them in this data directory from now on, although another registry on the same "
        "PostgreSQL did until now; for when that one is gone",
    )
    group.add_argument(
        "--no-fetch",
        action="store_true",
        help="fetch nothing: models from hubs and Git are registered only",
    )
    group.add_argument(
        "--fetch-concurrency",
        type=int,
        default=2,
        metavar="N",
        help="how many models are fetched at once (default: %(default)s)",
    )
    group.add_argument(
        "--fetch-deadline",
        type=float,
        default=24 * 3600.0,
        metavar="S",
        help="how long the fetch of a model may take (default: a day)",
    )
    group.add_argument(
        "--hub-endpoint",
        default=os.environ.get("HF_ENDPOINT") or None,
        metavar="URL",
        help="the Hugging Face Hub (default: HF_ENDPOINT, or else the public one)",
    )
    group.add_argument(
        "--hub-token-file",
        type=Path,
        metavar="FILE",
        help="a token for it, for repositories that are private or gated; readable by its owner "
        "only (default: none)",
    )


def main() -> int:
    """Run the registry until it is asked to end, and return the exit code."""
    parser = _parser()
    options = parser.parse_args()
    try:
        quota = default_quota(options.account_quota)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))

    async def work(stop: Stop) -> None:
        transport = transport_of(options, REGISTRY)
        settings = Settings(
            listen=options.listen,
            data_dir=options.data_dir,
            database=chosen_database(options, "registry"),
            service_token=transport.service_token,
            tls=transport.tls,
            admin_token_file=options.admin_token_file or options.data_dir / "admin-token",
            session_manager_endpoint=options.session_manager_endpoint,
            inference_router_endpoint=options.inference_router_endpoint,
            reset_admin_token=options.reset_admin_token,
            drain_seconds=options.drain_seconds,
            model_quota=options.model_quota,
            keep_model_files=options.keep_model_files,
            default_quota=quota,
            audit=retention_of(options),
            fetch=FetchOptions(
                enabled=not options.no_fetch,
                concurrency=max(1, options.fetch_concurrency),
                deadline_seconds=options.fetch_deadline,
                hub_endpoint=options.hub_endpoint,
                hub_token_file=options.hub_token_file,
            ),
        )
        await serve_until(stop, serving(settings), options, transport.service_address)

    return run(
        work,
        name="registry",
        log_level=options.log_level,
        exit_with_parent=options.exit_with_parent,
    )
