"""`podbay service`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from podbay.cli.arguments import filter_options, key_values, read_json_file
from podbay.cli.durations import duration_option
from podbay.cli.entities import change_labels, delete_all, query_arguments, show_entity
from podbay.cli.invocation import Invocation, account_of, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import age, table, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from podbay.schema.platform import InferenceInterface
    from podbay.schema.serving import ServingOptions

__all__ = ["service"]

_COLLECTION = "inferenceservices"


@click.group(cls=Noun)
def service() -> None:
    """Inference services: packaged systems, ready to run."""


def _serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option("--readiness-path", metavar="PATH", help="Answers 2xx once it is ready."),
            click.option(
                "--start-timeout",
                callback=duration_option,
                metavar="DURATION",
                help="How long a replica may take until it is ready, as 90s.",
            ),
            click.option(
                "--stop-grace",
                callback=duration_option,
                metavar="DURATION",
                help="How long a replica may take to end, as 10s.",
            ),
            click.option("--max-concurrency", type=int, help="Calls at once for one replica."),
            click.option(
                "--safe-to-retry/--not-safe-to-retry",
                default=None,
                help="Whether a call may be sent again although a replica may have seen it.",
            ),
            click.option("--max-in-flight", type=int, help="Calls of a session that run at once."),
            click.option("--queue-length", type=int, help="Calls of a session that may wait."),
            click.option(
                "--queue-timeout",
                callback=duration_option,
                metavar="DURATION",
                help="How long a call may wait for a replica, as 30s.",
            ),
            click.option(
                "--hedge-after",
                callback=duration_option,
                metavar="DURATION",
                help="Without an answer for this long, try a second replica, too, as 500ms.",
            ),
        )
    ):
        command = option(command)
    return command


def _serving(options: dict[str, Any]) -> ServingOptions | None:
    from podbay.cli.requests import request_from_options  # noqa: PLC0415 # takes long
    from podbay.schema.serving import ServingOptions  # noqa: PLC0415 # takes long

    given = {key: value for key, value in options.items() if value is not None}
    return request_from_options(ServingOptions, given) if given else None


@service.command()
@click.option(
    "-f", "--file", "path", required=True, metavar="FILE", help="A create request as JSON; - stdin."
)
@click.option("--account", help="The account, where the file names none.")
@_serving_options
@json_option
@pass_invocation
def create(invocation: Invocation, /, path: str, account: str | None, **serving: Any) -> None:
    """Register a service around a container image."""
    from podbay.cli.requests import request_from  # noqa: PLC0415 # takes long
    from podbay.schema.requests import InferenceServiceCreateRequest  # noqa: PLC0415 # as above

    specification = read_json_file(path)
    with invocation.client() as client:
        request = request_from(InferenceServiceCreateRequest, specification, client, account)
        made = client.inferenceservices.create(request, serving=_serving(serving))
    _show_new(invocation, made)


@service.command("create-mock")
@click.argument("import_path")
@click.option("--account", help="The account; that of the token unless said.")
@click.option("--model", help="The id of the model that the service stands for.")
@_serving_options
@json_option
@pass_invocation
def create_mock(
    invocation: Invocation,
    /,
    import_path: str,
    account: str | None,
    model: str | None,
    **serving: Any,
) -> None:
    """Register a mock by the import path of its class.

    For example: podbay service create-mock podbay.local.mocks.TextCompletion
    """
    with invocation.client() as client:
        made = client.inferenceservices.create_mock(
            import_path,
            account=account_of(client, account),
            model=model,
            serving=_serving(serving),
        )
    _show_new(invocation, made)


@service.command("create-process")
@click.option("--name", required=True, help="What people call it.")
@click.option("--endpoint", help="The path that takes calls, as v1/completions.")
@click.option(
    "--interface", "interface_file", metavar="FILE", help="The whole interface as JSON; - stdin."
)
@click.option("--env", multiple=True, metavar="KEY=VALUE", help="An environment variable.")
@click.option("--working-dir", metavar="DIR", help="The folder on the node to run in.")
@click.option("--account", help="The account; that of the token unless said.")
@click.option("--model", help="The id of the model that the service loads.")
@_serving_options
@json_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_invocation
def create_process(
    invocation: Invocation,
    /,
    name: str,
    endpoint: str | None,
    interface_file: str | None,
    env: tuple[str, ...],
    working_dir: str | None,
    account: str | None,
    model: str | None,
    command: tuple[str, ...],
    **serving: Any,
) -> None:
    """Register a command that serves HTTP on the port given in PORT.

    For example: podbay service create-process --name echo --endpoint echo -- python server.py
    """
    interface = _interface(endpoint, interface_file)
    variables = key_values(env, "--env")
    with invocation.client() as client:
        made = client.inferenceservices.create_process(
            list(command),
            interface,
            account=account_of(client, account),
            name=name,
            env=variables or None,
            working_dir=working_dir,
            model=model,
            serving=_serving(serving),
        )
    _show_new(invocation, made)


def _interface(endpoint: str | None, path: str | None) -> InferenceInterface:
    from podbay.cli.requests import request_from_options  # noqa: PLC0415 # takes long
    from podbay.schema.platform import InferenceInterface  # noqa: PLC0415 # takes long

    if (endpoint is None) == (path is None):
        raise click.UsageError("name the path with --endpoint, or the whole with --interface FILE")
    if path is not None:
        return request_from_options(InferenceInterface, read_json_file(path))
    # The schema says nothing of the outputs: any JSON passes.
    return InferenceInterface.model_validate(
        {"endpoint": endpoint, "outputSchema": {"arrowSchema": ""}}
    )


def _show_new(invocation: Invocation, made: Any) -> None:
    show_entity(invocation, made, [("endpoint", made.interface.endpoint)])
    if not invocation.json:
        click.echo(f"run it: podbay session create {made.id} --wait", err=True)


@service.command("list")
@filter_options()
@click.option("--model", help="Only those of this model.")
@click.option("--model-name", help="Only those of the model of this name.")
@json_option
@pass_invocation
def list_services(invocation: Invocation, /, **options: Any) -> None:
    """List services."""
    with invocation.client() as client:
        services = client.inferenceservices.query(**query_arguments(options))
    if invocation.json:
        write_json(services)
        return
    table(
        ("ID", "NAME", "STATUS", "RUNNER", "ACCOUNT", "AGE"),
        [
            (
                s.id,
                s.name,
                s.status,
                s.runner.kind.value if s.runner else "",
                s.account,
                age(s.creationTime),
            )
            for s in services
        ],
        empty="no services",
    )


@service.command()
@click.argument("service_id", metavar="ID")
@json_option
@pass_invocation
def get(invocation: Invocation, service_id: str) -> None:
    """Show a service."""
    with invocation.client() as client:
        found = client.inferenceservices.get(service_id)
    runner = found.runner
    pairs: list[tuple[str, object]] = [
        ("endpoint", found.interface.endpoint),
        ("model", found.model.name if found.model else None),
        ("runner", runner.kind.value if runner else None),
        ("command", " ".join((*(runner.command or ()), *(runner.args or ()))) if runner else None),
        ("serving", "\n".join(f"{a.key}={a.value}" for a in found.annotations)),
    ]
    show_entity(invocation, found, pairs)


@service.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@pass_invocation
def delete(invocation: Invocation, ids: tuple[str, ...]) -> None:
    """Delete services; their sessions go on."""
    delete_all(invocation, _COLLECTION, ids)


@service.command()
@click.argument("service_id", metavar="ID")
@click.argument("changes", metavar="KEY=VALUE|KEY-...", nargs=-1, required=True)
@json_option
@pass_invocation
def label(invocation: Invocation, service_id: str, changes: tuple[str, ...]) -> None:
    """Set labels (KEY=VALUE) and remove them (KEY-)."""
    change_labels(invocation, _COLLECTION, service_id, changes)
