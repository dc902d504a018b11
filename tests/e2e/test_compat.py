"""Scripts of the platform, run as they stand: what they print, raise and return."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from podbay import Client
from podbay.local import mocks
from podbay.local.processes import find_by_environment
from podbay.local.state import DataDir
from tests.support.platform import Platform
from tests.support.reference import reference_python

LOCAL = """\
from dyff.audit.local import DyffLocalPlatform, mocks
from dyff.schema.requests import InferenceSessionCreateRequest

dyffapi = DyffLocalPlatform(storage_root="{storage_root}")
ACCOUNT = "auditors"

service = dyffapi.inferenceservices.create_mock(mocks.TextCompletion, account=ACCOUNT)
print(service.json(indent=2))

session_request = InferenceSessionCreateRequest(
    account=ACCOUNT, inferenceService=service.id
)
session_and_token = dyffapi.inferencesessions.create(session_request)
session = session_and_token.inferencesession
token = session_and_token.session
print(session.json(indent=2))

inference_client = dyffapi.inferencesessions.client(
    session.id, token, interface=session.inferenceService.interface
)

completion = inference_client.infer({{"text": "Open the pod bay doors, Hal!"}})
print(completion)
"""

REMOTE = """\
import time
from dyff.client import Client
from dyff.schema.platform import is_status_terminal
from dyff.schema.requests import InferenceSessionCreateRequest

dyffapi = Client()
ACCOUNT = "{account}"

service = dyffapi.inferenceservices.get("{service}")

session_request = InferenceSessionCreateRequest(
    account=ACCOUNT, inferenceService=service.id
)
session_and_token = dyffapi.inferencesessions.create(session_request)
session = session_and_token.inferencesession
token = session_and_token.session

inference_client = dyffapi.inferencesessions.client(
    session.id, token, interface=session.inferenceService.interface
)

# Sessions usually take some time to start. In general, the only way to tell
# that the session is ready is to attempt to make an inference.
while True:
    try:
        completion = inference_client.infer({{"text": "Open the pod bay doors, Hal!"}})
        print(completion)
        break
    except Exception:
        # If the session has terminated, inference will never succeed
        if is_status_terminal(dyffapi.inferencesessions.get(session.id).status):
            print("session terminated")
            break
        print("not ready")
        time.sleep({pause})
"""

CATCHING = """\
import asyncio, sys
from dyff.client import Client, HttpResponseError, InferenceSessionClient
from dyff.client.errors import DyffClientError, HTTPError, TransportError
from dyff.schema.platform import EntityIdentifier

def caught(call):
    try:
        call()
    except TransportError as error:
        return "transport", type(error).__name__, hasattr(error, "status")
    except HTTPError as error:
        assert str(error).startswith(f"[{error.status}] {error.payload['detail']}"), str(error)
        return "http", error.status_code, isinstance(error, HttpResponseError)

dyffapi = Client()
sessions = dyffapi.inferencesessions
print(caught(lambda: dyffapi.models.get("none")))
print(caught(lambda: dyffapi.get(EntityIdentifier(kind="Dataset", id="x"))))
print(caught(lambda: dyffapi.models.query(labels={"a b": "c"})))
print(caught(lambda: Client(endpoint="127.0.0.1:1").models.get("none")))
session = sessions.get("SESSION")
token = sessions.token(session.id)
print(dyffapi.tokens.inspect(token)[1]["sid"] == session.id)
client = sessions.client(session.id, token, endpoint="no-such-endpoint")
assert isinstance(client, InferenceSessionClient)
print(caught(lambda: client.infer({"text": "x"})))
logs = sessions.workflow_logs(session.id, since="1h", limit=5)
print(logs.workflow.kind, 0 < len(logs.logs) <= 5, all(entry.timestamp for entry in logs.logs))

async def stream():
    return [e.message async for e in sessions.stream_workflow_logs(session.id)]

sessions.terminate(session.id)
print(logs.logs[-1].message in asyncio.run(stream()))
"""

OWN_MOCK = """\
import sys
from dyff.audit.local import DyffLocalPlatform, mocks

class Shout(mocks.Echo):
    def infer(self, endpoint, request):
        return {"text": request["text"].upper()}

if __name__ == "__main__":
    dyffapi = DyffLocalPlatform(sys.argv[1])
    service = dyffapi.inferenceservices.create_mock(Shout, account="local")
    made = dyffapi.inferencesessions.create({"account": "a", "inferenceService": service.id})
    session = made.inferencesession
    client = dyffapi.inferencesessions.client(
        session.id, "whatever", interface=session.inferenceService.interface
    )
    print(client.infer({"text": "hal"}))
    try:
        dyffapi.evaluations
    except AttributeError as error:
        print(error)
    raise SystemExit(7)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for scripts, beside which stands a package of the platform's name."""
    for package in (tmp_path / "installed" / "dyff", tmp_path / "scripts" / "dyff"):
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('the package that is installed')")
    return tmp_path / "scripts"


def python(
    folder: Path, source: str, *arguments: str, plain: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    (folder / "audit.py").write_text(source, encoding="utf-8")
    compat = [] if plain else ["-m", "podbay.compat"]
    inherited = {name: value for name, value in os.environ.items() if "_API_" not in name}
    return subprocess.run(
        [sys.executable, "-W", "error", *compat, "scripts/audit.py", *arguments],
        cwd=folder.parent,
        env={**inherited, "PYTHONPATH": str(folder.parent / "installed"), **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_local_listing(folder: Path):
    root = folder.parent / "store"
    done = python(folder, LOCAL.format(storage_root=root))
    assert (done.returncode, done.stderr) == (0, "")
    assert '"account": "auditors"' in done.stdout
    assert '"kind": "InferenceSession"' in done.stdout
    completion = done.stdout.splitlines()[-1]
    assert completion.startswith("[{'text': 'Open the pod bay doors, Hal!")
    assert completion.count("'text': ") == 2
    assert list(find_by_environment(DataDir(root).mark)) == []


def shape(value: Any) -> Any:
    """What is the same from run to run: members, types, and how many there are."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return type(value).__name__


def parsed(out: str) -> tuple[Any, Any, Any]:
    decoder = json.JSONDecoder()
    service, end = decoder.raw_decode(out)
    session, length = decoder.raw_decode(out[end + 1 :])
    return service, session, ast.literal_eval(out[end + 1 + length :].strip())


@pytest.mark.needs_reference_audit
def test_the_local_listing_prints_what_the_platforms_own_prints(folder: Path):
    source = LOCAL.format(storage_root=folder.parent / "ours")
    ours = parsed(python(folder, source).stdout)
    # The one word of the listing that does not work there.
    source = LOCAL.format(storage_root=folder.parent / "theirs")
    source = source.replace("token = session_and_token.session", "token = session_and_token.token")
    (folder / "audit.py").write_text(source)
    theirs = parsed(
        subprocess.run(
            [reference_python("reference-audit"), "-P", "-W", "ignore", folder / "audit.py"],
            cwd=folder.parent,
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        ).stdout
    )
    for service in (ours[0], ours[1]["inferenceService"]):
        # What a service is run by, which a mock within the script does not need.
        assert service.pop("runner")["kind"] == "mock"
        # The name of the schema, beside the schema itself.
        assert service["interface"]["outputSchema"].pop("dyffSchema")["components"] == ["text.Text"]
    for sides in (ours, theirs):
        for service in (sides[0], sides[1]["inferenceService"]):
            definitions = service["interface"]["outputSchema"]["jsonSchema"].pop("$defs")
            ((_, item),) = definitions.items()  # named by how the schema was made
            service["interface"]["outputSchema"]["item"] = item["properties"]
    assert ours[1].pop("lastTransitionTime")
    assert shape(ours) == shape(theirs)
    schemas = [each[0]["interface"]["outputSchema"]["arrowSchema"] for each in (ours, theirs)]
    assert schemas[0] == schemas[1]
    for side in (ours, theirs):
        assert [text["text"].startswith("Open the pod bay doors, Hal!") for text in side[2]] == [
            True,
            True,
        ]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("start", "pause"),
    [
        pytest.param(3, 0.2, id="quick"),
        pytest.param(
            20,
            30,
            id="as it stands",
            marks=pytest.mark.skipif(
                os.environ.get("PODBAY_TEST_REQUIRE_ALL") != "1",
                reason="takes 30 s: it runs with `make test-all`",
            ),
        ),
    ],
)
def test_the_listing_for_the_platform(
    folder: Path, platform: Platform, client: Client, account: str, start: int, pause: float
):
    service = client.inferenceservices.create_mock(
        mocks.LateStart, account=account, env={"PODBAY_MOCK_START_SECONDS": str(start)}
    )
    done = python(
        folder,
        REMOTE.format(account=account, service=service.id, pause=pause),
        DYFF_API_ENDPOINT=platform.endpoint(),
        DYFF_API_TOKEN=platform.token,
    )
    for session in client.inferencesessions.query(inferenceService=service.id):
        client.inferencesessions.terminate(session.id)
    assert (done.returncode, done.stderr) == (0, "")
    *waited, completion = done.stdout.splitlines()
    assert set(waited) == {"not ready"}
    assert completion == "[{'text': 'Open the pod bay doors, Hal!'}]"


def test_a_script_that_catches_errors_and_reads_logs(
    folder: Path, platform: Platform, client: Client, account: str
):
    service = client.inferenceservices.create_mock(mocks.TextCompletion, account=account)
    made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
    session_id = made.inferencesession.id
    client.inferencesessions.wait_ready(session_id, timeout=60)
    done = python(
        folder,
        CATCHING.replace("SESSION", session_id),
        DYFF_API_ENDPOINT=platform.endpoint(),
        DYFF_API_TOKEN=platform.token,
    )
    client.inferencesessions.terminate(session_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "('http', 404, True)",
        "('http', 422, True)",
        "('http', 422, True)",
        "('transport', 'UnreachableError', False)",
        "True",
        "('http', 422, True)",
        "InferenceSession True True",
        "True",
    ]


def test_a_mock_of_the_script_itself(folder: Path):
    done = python(folder, OWN_MOCK, str(folder.parent / "store"))
    assert (done.returncode, done.stderr) == (7, "")
    answer, refusal = done.stdout.splitlines()
    assert answer == "[{'text': 'HAL'}]"
    assert refusal.startswith("Podbay's DyffLocalPlatform has no 'evaluations'")


@pytest.mark.parametrize(
    "source",
    [
        "import sys, helper\nprint(__name__, sys.argv, __file__, sys.path[0], helper.VALUE)",
        "import sys\nsys.exit(5)",
        "import sys\nsys.exit('a last word')",
        "def fail():\n    raise ValueError('no')\n\nfail()\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError('x') from error\n",
        "this is no Python\n",
        "raise KeyboardInterrupt\n",
        "import __main__\nassert __main__.__dict__ is globals()\nassert __spec__ is None\n",
        "import atexit\natexit.register(print, 'at the end')\nprint('first')\n",
    ],
)
def test_it_runs_as_with_python(folder: Path, source: str):
    (folder / "helper.py").write_text("VALUE = 'from the helper'\n")
    ours = python(folder, source, "--one", "two")
    theirs = python(folder, source, "--one", "two", plain=True)
    assert ours.stdout == theirs.stdout
    assert ours.stderr == theirs.stderr
    assert ours.returncode == theirs.returncode


def test_what_cannot_be_run(folder: Path):
    done = python(folder, "from dyff.schema.platform import Evaluation\n")
    assert done.returncode == 1
    assert "ImportError: Podbay has no 'Evaluation' in dyff.schema.platform" in done.stderr
    assert "podbay/compat/script.py" not in done.stderr
    for arguments, text in (
        ([], "usage: python -m podbay.compat SCRIPT [ARGS]"),
        (["--what"], "there is no option --what"),
        (["missing.py"], "missing.py': [Errno 2] No such file"),
    ):
        refused = subprocess.run(
            [sys.executable, "-m", "podbay.compat", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (refused.returncode, refused.stdout) == (2, "")
        assert text in refused.stderr
