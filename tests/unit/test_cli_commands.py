"""The commands over a fake client: what they ask, what they write, how they end."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from podbay import errors
from podbay.cli.invocation import Invocation
from podbay.cli.root import cli
from podbay.errors import error_for
from podbay.schema.platform import InferenceService, InferenceSessionAndToken
from podbay.types import (
    ApiToken,
    ApiTokenAndSecret,
    Grant,
    LogLine,
    NodeInfo,
    RevokedTokens,
    SigningKeyInfo,
)
from tests.support.cli_fake_client import (
    NOW,
    SERVICE,
    SESSION_ID,
    FakeCalls,
    FakeClient,
    make_replica,
    make_session,
    make_status,
)

Run = Callable[..., Result]


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def run(client: FakeClient, tmp_path: Path) -> Run:
    def call(*arguments: str, input: str | None = None, **environment: str) -> Result:  # noqa: A002 # as CliRunner's
        return CliRunner().invoke(
            cli,
            arguments,
            input=input,
            obj=Invocation(connect=client.connect),
            env={
                "PODBAY_API_ENDPOINT": "127.0.0.1:1",
                "PODBAY_API_TOKEN": "secret",
                "PODBAY_DATA_DIR": str(tmp_path),
                **environment,
            },
        )

    return call


def test_endpoint_and_token_come_from_the_environment(run: Run, client: FakeClient):
    assert run("session", "get", SESSION_ID).exit_code == 0
    assert client.connected_to == [("127.0.0.1:1", "secret")]


def test_a_token_file_and_an_endpoint_option_win(run: Run, client: FakeClient, tmp_path: Path):
    (tmp_path / "token").write_text("other\n")
    options = ("--endpoint", "h:2", "--token-file", str(tmp_path / "token"))
    assert run(*options, "session", "get", SESSION_ID).exit_code == 0
    assert client.connected_to == [("h:2", "other")]


def test_without_an_address_the_way_out_is_told(run: Run):
    result = run("model", "list", PODBAY_API_ENDPOINT="", PODBAY_API_TOKEN="")
    assert result.exit_code == 2
    assert "podbay up" in result.stderr
    assert "PODBAY_API_ENDPOINT" in result.stderr


def test_the_admin_token_of_this_machine_goes_nowhere_else(run: Run, tmp_path: Path):
    (tmp_path / "admin-token").write_text("the-admin-token")
    result = run("model", "list", PODBAY_API_ENDPOINT="far.example:7101", PODBAY_API_TOKEN="")
    assert result.exit_code == 2
    assert "there is no token for far.example:7101" in result.stderr


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("INTERNAL", 1),
        ("INVALID_REQUEST", 1),
        ("SESSION_FAILED", 1),
        ("INFERENCE_SESSION_NOT_FOUND", 3),
        ("TOKEN_REVOKED", 4),
        ("PERMISSION_DENIED", 4),
        ("SERVICE_UNREACHABLE", 5),
        ("SESSION_NOT_READY", 5),
        ("DEADLINE_EXCEEDED", 5),
        ("CONNECTION_LOST", 5),
    ],
)
def test_the_exit_code_tells_the_kind_of_error(
    run: Run, client: FakeClient, reason: str, code: int
):
    client.inferencesessions.answers["get"] = error_for(reason, "it went wrong")
    result = run("session", "get", SESSION_ID)
    assert result.exit_code == code
    assert result.stdout == ""
    assert f"it went wrong ({reason})" in result.stderr


def test_an_error_shows_its_evidence_and_its_way_out(run: Run, client: FakeClient):
    client.inferencesessions.answers["status"] = error_for(
        "SESSION_FAILED", "the command exits at once", metadata={"exitCode": "3", "log": "a\nb"}
    )
    text = run("session", "status", SESSION_ID).stderr
    assert "exitCode: 3" in text
    assert "logs" in text


def test_an_error_is_json_on_stderr_where_a_program_reads(run: Run, client: FakeClient):
    client.inferencesessions.answers["get"] = error_for(
        "INVALID_REQUEST", "bad", violations=[("replicas", "must be 1 or more")], retry_after=2.0
    )
    result = run("session", "get", SESSION_ID, "--json")
    assert result.exit_code == 1
    body = json.loads(result.stderr)["error"]
    assert body["reason"] == "INVALID_REQUEST"
    assert body["violations"] == [{"field": "replicas", "description": "must be 1 or more"}]
    assert body["retryAfter"] == 2.0


def test_wrong_usage_is_json_too(run: Run):
    result = run("session", "create", "x", "--json", "--expires", "soon")
    assert result.exit_code == 2
    assert json.loads(result.stderr)["error"]["reason"] == "USAGE"


def test_a_defect_is_not_hidden(run: Run, client: FakeClient):
    client.inferencesessions.answers["get"] = RuntimeError("a defect")
    assert isinstance(run("session", "get", SESSION_ID).exception, RuntimeError)


def test_ctrl_c_ends_without_a_traceback(run: Run, client: FakeClient):
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    client.inferencesessions.answers["get"] = interrupted
    result = run("session", "get", SESSION_ID)
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_json_is_the_platforms_form(run: Run):
    body = json.loads(run("session", "get", SESSION_ID, "--json").stdout)
    assert body == make_session().model_dump(mode="json")
    assert "reason" not in body


def test_ids_stand_whole_in_a_piped_table(run: Run, client: FakeClient):
    client.inferencesessions.answers["query"] = [make_session(), make_session(id="8" * 32)]
    lines = run("session", "list").stdout.splitlines()
    assert lines[0].split() == [
        *("ID", "SERVICE", "STATUS", "REASON", "REPLICAS", "ACCOUNT", "AGE", "EXPIRES")
    ]
    assert [line.split()[0] for line in lines[1:]] == [SESSION_ID, "8" * 32]
    assert "podbay.local.mocks.TextCompletion" in lines[1]


def test_an_empty_list_says_so_on_stderr(run: Run, client: FakeClient):
    client.inferencesessions.answers["query"] = []
    result = run("session", "list")
    assert (result.stdout, result.stderr) == ("", "no sessions\n")


def test_filters_of_a_list_reach_the_client(run: Run, client: FakeClient):
    client.inferencesessions.answers["query"] = []
    run("session", "list", "--status", "Admitted", "--label", "a=b", "--service", "s")
    assert client.calls[-1][2] == {
        "status": "Admitted",
        "labels": {"a": "b"},
        "inferenceService": "s",
    }


def test_a_session_is_created_for_the_tokens_account_and_waited_for(run: Run, client: FakeClient):
    made = InferenceSessionAndToken(inferencesession=make_session(), token="session-token")

    def wait_ready(_: str, *, timeout: float, progress: Callable[[object], None]) -> None:
        assert timeout == 90
        progress(make_status(make_replica(), make_replica(index=1, phase="Probing")))

    client.inferencesessions.answers.update(create=made, wait_ready=wait_ready)
    result = run(
        *("session", "create", "service-id", "--replicas", "2", "--wait", "--timeout", "90s")
    )
    assert result.exit_code == 0, result.output
    (request,) = client.calls[0][1]
    assert (request.account, request.inferenceService, request.replicas) == (
        "acct",
        "service-id",
        2,
    )
    assert "1 of 2 replicas ready (1 ready, 1 probing)" in result.stderr
    assert SESSION_ID in result.stdout
    assert "session-token" not in result.output


def test_a_created_session_in_json_is_the_session_and_its_token(run: Run, client: FakeClient):
    made = InferenceSessionAndToken(inferencesession=make_session(), token="session-token")
    client.inferencesessions.answers["create"] = made
    body = json.loads(run("session", "create", "service-id", "--json").stdout)
    assert set(body) == {"inferencesession", "token"}


def test_an_explanation_holds_reason_exit_code_and_log(run: Run, client: FakeClient):
    failed = make_replica(
        phase="Failed",
        reason="REPLICA_EXITED",
        message="it ended by itself",
        exit_code=137,
        log_tail=("line 1", "line 2"),
    )
    client.inferencesessions.answers["status"] = make_status(failed, explanation="no replica lives")
    text = run("session", "explain", SESSION_ID).stdout
    for part in ("no replica lives", "REPLICA_EXITED", "137 (signal 9)", "| line 2"):
        assert part in text


def test_a_mock_is_registered_with_its_serving_options(run: Run, client: FakeClient):
    made = InferenceService.model_validate({**SERVICE, "status": "Ready", "creationTime": NOW})
    client.inferenceservices.answers["create_mock"] = made
    result = run("service", "create-mock", "a.B", "--start-timeout", "2m", "--max-concurrency", "4")
    assert result.exit_code == 0, result.output
    _, args, kwargs = client.calls[0]
    assert args == ("a.B",)
    assert kwargs["account"] == "acct"
    assert (kwargs["serving"].start_timeout, kwargs["serving"].max_concurrency) == (120.0, 4)


def test_a_command_is_registered_as_it_was_typed(run: Run, client: FakeClient):
    made = InferenceService.model_validate({**SERVICE, "status": "Ready", "creationTime": NOW})
    client.inferenceservices.answers["create_process"] = made
    result = run(
        *("service", "create-process", "--name", "n", "--endpoint", "e", "--env", "A=b=c"),
        *("--", "python", "-m", "server", "--json", "--name", "x"),
    )
    assert result.exit_code == 0, result.output
    _, (command, interface), kwargs = client.calls[0]
    assert command == ["python", "-m", "server", "--json", "--name", "x"]
    assert interface.endpoint == "e"
    assert (kwargs["name"], kwargs["env"], kwargs["serving"]) == ("n", {"A": "b=c"}, None)


def test_serving_options_that_break_a_rule_are_wrong_usage(run: Run):
    result = run("service", "create-mock", "a.B", "--readiness-path", "no-slash")
    assert result.exit_code == 2
    assert "readiness_path" in result.stderr


def test_a_model_file_that_breaks_rules_is_wrong_usage_with_the_paths(run: Run):
    result = run("model", "create", "-f", "-", input='{"name": "m", "source": {"kind": "Nope"}}')
    assert result.exit_code == 2
    assert "source.kind" in result.stderr
    assert "artifact" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [(('{"text": "hi"}',), None), (("-",), '{"text": "hi"}'), ((), '{"text": "hi"}')],
)
def test_a_body_comes_from_the_argument_or_standard_input(
    run: Run, client: FakeClient, arguments: tuple[str, ...], stdin: str | None
):
    calls = FakeCalls([{"text": "no"}])
    client.inferencesessions.answers["client"] = lambda *_, **__: calls
    result = run("infer", SESSION_ID, *arguments, input=stdin)
    assert result.exit_code == 0, result.output
    assert calls.bodies == [{"text": "hi"}]
    assert json.loads(result.stdout) == {"text": "no"}


def test_a_body_comes_from_a_file(run: Run, client: FakeClient, tmp_path: Path):
    (tmp_path / "body.json").write_text("[1, 2]")
    calls = FakeCalls([])
    client.inferencesessions.answers["client"] = lambda *_, **__: calls
    assert run("infer", SESSION_ID, f"@{tmp_path / 'body.json'}").exit_code == 0
    assert calls.bodies == [[1, 2]]


def test_streamed_items_come_one_a_line(run: Run, client: FakeClient):
    client.inferencesessions.answers["client"] = lambda *_, **__: FakeCalls([{"a": 1}, "é"])
    assert run("infer", SESSION_ID, "{}", "--stream").stdout == '{"a": 1}\n"é"\n'


def test_a_body_that_is_not_json_is_wrong_usage(run: Run):
    result = run("infer", SESSION_ID, "{text")
    assert result.exit_code == 2
    assert "not JSON" in result.stderr


@pytest.mark.parametrize("command", [("logs",), ("session", "logs")])
def test_logs_name_their_replica(run: Run, client: FakeClient, command: tuple[str, ...]):
    result = run(*command, SESSION_ID, "--tail", "5", "--follow")
    assert result.stdout == "aaaaaaaa | hello\n"
    assert client.calls[0][2] == {"replica": None, "tail": 5, "follow": True}
    assert json.loads(run(*command, SESSION_ID, "--json").stdout)["replicaId"] == "a" * 32


def test_logs_show_times_where_they_are_known(run: Run, client: FakeClient):
    client.inferencesessions.answers["logs"] = lambda *_, **__: iter(
        [LogLine("a" * 32, "one", 4, datetime(2030, 1, 1, tzinfo=UTC)), LogLine("b" * 32, "two", 4)]
    )
    assert run("logs", SESSION_ID, "--timestamps").stdout == (
        "2030-01-01T00:00:00.000+00:00 aaaaaaaa | one\ntime unknown bbbbbbbb | two\n"
    )
    first = run("logs", SESSION_ID, "--json").stdout.splitlines()[0]
    assert json.loads(first)["time"] == "2030-01-01T00:00:00Z"


def test_labels_are_set_and_removed(run: Run, client: FakeClient):
    client.inferencesessions.answers["label"] = None
    assert run("session", "label", SESSION_ID, "a=b", "old-").exit_code == 0
    assert client.calls[0][1] == (SESSION_ID, {"a": "b", "old": None})


def test_several_sessions_are_terminated(run: Run):
    result = run("session", "terminate", "one", "two")
    assert (
        result.stdout == "one  Terminated (TerminateCommand)\ntwo  Terminated (TerminateCommand)\n"
    )


def test_a_new_token_goes_to_stdout_alone(run: Run, client: FakeClient):
    token = ApiToken("id", "acct", "ci", (), NOW, None, None)
    client.tokens.answers["create"] = ApiTokenAndSecret(token, "id.secret")
    result = run("token", "create", "--name", "ci", "--grant", "models,nodes:get,query")
    assert result.stdout == "id.secret\n"
    assert client.calls[0][2]["grants"] == [
        Grant(("models", "nodes"), ("get", "query"), ("acct",), ())
    ]


@pytest.mark.parametrize(
    ("text", "grant"),
    [
        ("*:*:*", Grant(("*",), ("*",), ("*",), ())),
        ("models:get:a,b", Grant(("models",), ("get",), ("a", "b"), ())),
        ("models:get::i,j", Grant(("models",), ("get",), (), ("i", "j"))),
        ("models:get:a:i", Grant(("models",), ("get",), ("a",), ("i",))),
    ],
)
def test_grants_are_written_as_they_are_read(run: Run, client: FakeClient, text: str, grant: Grant):
    token = ApiToken("id", "acct", "ci", (grant,), NOW, None, None)
    client.tokens.answers["create"] = ApiTokenAndSecret(token, "id.secret")
    assert run("token", "create", "--grant", text).exit_code == 0
    assert client.calls[0][2]["grants"] == [grant]
    client.tokens.answers["list"] = [token]
    assert text in run("token", "list").stdout


@pytest.mark.parametrize("text", ["models", "models:", ":get", "a:b:c:d:e", ""])
def test_a_grant_of_another_form_is_refused(run: Run, text: str):
    result = run("token", "create", "--grant", text)
    assert result.exit_code == 2
    assert "RESOURCES:FUNCTIONS" in result.stderr


def test_tokens_of_sessions_are_revoked(run: Run, client: FakeClient):
    client.inferencesessions.answers["revoke_tokens"] = RevokedTokens(3, True)
    result = run("session", "revoke-tokens", "one", "two")
    assert result.stdout == "one  revoked  epoch 3\ntwo  revoked  epoch 3\n"
    assert result.stderr == ""
    client.inferencesessions.answers["revoke_tokens"] = RevokedTokens(4, False)
    assert "not acknowledged" in run("session", "revoke-tokens", "one").stderr
    printed = json.loads(run("session", "revoke-tokens", "one", "--json").stdout)
    assert printed == {"session": "one", "epoch": 4, "acknowledged": False}


def test_keys_are_listed_and_follow_each_other(run: Run, client: FakeClient):
    keys = [SigningKeyInfo("new", NOW, True, None), SigningKeyInfo("old", NOW, False, NOW)]
    client.signingkeys.answers.update(list=keys[1:], rotate=keys)
    assert "2030-01-01 00:00" in run("key", "list").stdout
    assert [line.split()[:2] for line in run("key", "rotate").stdout.splitlines()[1:]] == [
        ["new", "yes"],
        ["old", "no"],
    ]
    assert json.loads(run("key", "rotate", "--json").stdout)[1]["verifiesUntil"]


def test_nodes_are_listed_in_both_forms(run: Run, client: FakeClient):
    node = NodeInfo("local", "process", "Ready", "", "127.0.0.1", 2, 2, 8 << 30)
    client.nodes.answers["list"] = [node]
    assert "8.0 GiB" in run("node", "list").stdout
    assert json.loads(run("node", "list", "--json").stdout)[0]["memoryBytes"] == 8 << 30


def test_every_command_shows_its_help(run: Run):
    def walk(group: click.Group, path: tuple[str, ...]) -> None:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            result = run(*path, name, "--help")
            assert result.exit_code == 0, (path, name, result.output)
            assert command.help, f"{path} {name} says nothing of itself"
            if isinstance(command, click.Group):
                walk(command, (*path, name))

    walk(cli, ())


def test_every_reason_has_an_exit_code_of_the_documented_ones(run: Run, client: FakeClient):
    for reason in errors.REASONS:
        client.inferencesessions.answers["get"] = error_for(reason, "x")
        assert run("session", "get", SESSION_ID).exit_code in {1, 3, 4, 5}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EROFS, "Read-only file system", "out/x"), "out/x: Read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device"), "written: No space left on device"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_without_a_traceback(
    run: Run, client: FakeClient, error: OSError, told: str
):
    def fail(*_: object, **__: object) -> None:
        raise error

    client.inferencesessions.answers.update(get=fail)
    done = run("session", "get", SESSION_ID)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{told} (FILE_NOT_USABLE)\n  " in done.stderr
    told_to_programs = json.loads(run("session", "get", SESSION_ID, "--json").stderr)["error"]
    assert told_to_programs["reason"] == "FILE_NOT_USABLE"
    assert told_to_programs["wayOut"]


def test_what_is_no_file_of_the_users_is_a_defect(run: Run, client: FakeClient):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    client.inferencesessions.answers.update(get=fail)
    assert isinstance(run("session", "get", SESSION_ID).exception, OSError)
