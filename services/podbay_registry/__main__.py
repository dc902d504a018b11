"""`python -m podbay_registry`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from podbay_kit.process import (
    Stop,
    common_options,
    read_secret,
    run,
    write_address_file,
)
from podbay_kit.serving import split_address
from podbay_registry.server import Settings, serving


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podbay_registry",
        description="The registry of a Podbay installation: accounts, API tokens, models and "
        "inference services.",
    )
    common_options(parser, port=7101)
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
        help="the session manager's address, as clients reach it (default: %(default)s)",
    )
    parser.add_argument(
        "--inference-router-endpoint",
        default="127.0.0.1:7103",
        metavar="HOST:PORT",
        help="the inference router's address, as clients reach it (default: %(default)s)",
    )
    return parser


def main() -> int:
    """Run the registry until it is asked to end, and return the exit code."""
    options = _parser().parse_args()

    async def work(stop: Stop) -> None:
        settings = Settings(
            listen=options.listen,
            data_dir=options.data_dir,
            service_token=read_secret(options.service_token_file),
            admin_token_file=options.admin_token_file or options.data_dir / "admin-token",
            session_manager_endpoint=options.session_manager_endpoint,
            inference_router_endpoint=options.inference_router_endpoint,
            reset_admin_token=options.reset_admin_token,
            drain_seconds=options.drain_seconds,
        )
        async with serving(settings) as port:
            if options.address_file is not None:
                write_address_file(options.address_file, split_address(options.listen)[0], port)
            await stop.wait()

    return run(
        work,
        name="registry",
        log_level=options.log_level,
        exit_with_parent=options.exit_with_parent,
    )


if __name__ == "__main__":
    sys.exit(main())
