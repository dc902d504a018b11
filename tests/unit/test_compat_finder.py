"""Where the platform's names come from, and what is said of those that are not there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import podbay.errors
from podbay._core.tls import TlsSettings
from podbay.compat import finder
from podbay.compat.groups import WaitingSessionClient
from podbay.compat.parts import PARTS
from podbay.compat.timeouts import seconds
from podbay.errors import InvalidRequestError
from podbay.local import mocks
from podbay.schema import platform, requests


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The finder, with a package of the same name loaded before; gone afterwards."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_dyff(name)}
    sys.modules["dyff"] = ModuleType("dyff")
    finder.install()
    finder.install()
    assert sum(isinstance(each, finder.DyffFinder) for each in sys.meta_path) == 1
    yield
    for name in [name for name in sys.modules if _is_dyff(name)]:
        del sys.modules[name]
    sys.modules.update(before)


def _is_dyff(name: str) -> bool:
    return name.partition(".")[0] == "dyff"


def run(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(source, names)
    return names


@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_there_with_all_its_names(name: str):
    module = importlib.import_module(name)
    assert all(getattr(module, each) is not None for each in module.__all__)
    assert set(module.__all__) <= set(dir(module))
    assert set(run(f"from {name} import *")) >= set(module.__all__)


def test_the_names_are_podbays():
    names = run(
        "from dyff.audit.local import DyffLocalPlatform, mocks\n"
        "from dyff.client import Client, HttpResponseError, errors\n"
        "from dyff.schema import ids, platform\n"
        "from dyff.schema.platform import is_status_terminal\n"
        "from dyff.schema.v0.r1.requests import InferenceSessionCreateRequest\n"
        "import dyff.schema.adapters\n"
    )
    assert names["mocks"].TextCompletion is mocks.TextCompletion
    assert names["is_status_terminal"] is platform.is_status_terminal
    assert names["platform"].InferenceSession is platform.InferenceSession
    assert names["InferenceSessionCreateRequest"] is requests.InferenceSessionCreateRequest
    assert names["HttpResponseError"] is names["errors"].HTTPError is podbay.errors.StatusError
    assert len(names["ids"].generate_entity_id()) == 32
    assert names["dyff"].schema.adapters.create_pipeline([]) is not None


def test_what_is_not_there_is_named():
    with pytest.raises(
        ModuleNotFoundError, match=r"Podbay has no dyff\.audit\.metrics, .*has "
    ) as e:
        run("import dyff.audit.metrics")
    assert e.value.name == "dyff.audit.metrics"
    with pytest.raises(
        ImportError, match=r"no 'EvaluationCreateRequest' in dyff\.schema\.requests"
    ):
        run("from dyff.schema.requests import EvaluationCreateRequest")
    # Of a package, too, where Python looks for a module of that name first.
    with pytest.raises(ImportError, match=r"Podbay has no dyff\.schema\.dataset"):
        run("from dyff.schema import dataset")
    module = importlib.import_module("dyff.schema.platform")
    with pytest.raises(AttributeError, match=r"no 'Evaluation' in dyff\.schema\.platform"):
        _ = module.Evaluation
    assert not hasattr(module, "Evaluation")
    with pytest.raises(ModuleNotFoundError, match="No module named 'dyffy'"):
        run("import dyffy")


def make_client(**options: Any) -> Any:
    return importlib.import_module("dyff.client").Client(**options)


def test_the_clients_settings(monkeypatch: pytest.MonkeyPatch):
    for variable in ("PODBAY_API_ENDPOINT", "PODBAY_API_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.replace("PODBAY", "DYFF"), raising=False)
    with pytest.raises(InvalidRequestError, match="set PODBAY_API_ENDPOINT or DYFF_API_ENDPOINT"):
        make_client(api_token="t")
    with pytest.raises(InvalidRequestError, match="set PODBAY_API_TOKEN or DYFF_API_TOKEN"):
        make_client(endpoint="127.0.0.1:1")
    monkeypatch.setenv("DYFF_API_ENDPOINT", "127.0.0.1:2")
    monkeypatch.setenv("DYFF_API_TOKEN", "theirs")
    with make_client() as client:
        assert client.endpoint == "127.0.0.1:2"
        assert client._transport.settings.api_token == "theirs"
    monkeypatch.setenv("PODBAY_API_ENDPOINT", "127.0.0.1:3")
    monkeypatch.setenv("PODBAY_API_TOKEN", "ours")
    timeout = importlib.import_module("dyff.client").Timeout(5, read=7)
    with make_client(timeout=timeout) as client:
        assert client.endpoint == "127.0.0.1:3"
        assert client._transport.settings.api_token == "ours"
        assert client._transport.settings.timeout == 7
    with pytest.warns(UserWarning, match="does not use the client's setting 'backoff'"):
        make_client(backoff=1).close()
    with pytest.raises(TypeError, match="'verify'"):
        make_client(verify=False)


def test_the_clients_settings_of_tls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DYFF_API_ENDPOINT", "pod.example:1")
    monkeypatch.setenv("DYFF_API_TOKEN", "t")

    def tls(**options: Any) -> TlsSettings:
        with make_client(**options) as client:
            found: TlsSettings = client._transport.settings.tls
            return found

    assert tls() == tls(insecure=False) == TlsSettings()
    assert tls(insecure=True) == TlsSettings(insecure=True)
    with pytest.warns(DeprecationWarning, match="former name of insecure"):
        assert tls(verify_ssl_certificates=False) == TlsSettings(insecure=True)
    with pytest.warns(DeprecationWarning, match="former name of insecure"):
        assert tls(verify_ssl_certificates=True) == TlsSettings()
    with pytest.raises(ValueError, match="say the same"):
        make_client(insecure=True, verify_ssl_certificates=False)
    monkeypatch.setenv("DYFF_API_INSECURE", "True")
    assert tls() == TlsSettings(insecure=True)
    monkeypatch.setenv("DYFF_API_INSECURE", "yes")
    assert tls() == TlsSettings()
    monkeypatch.setenv("DYFF_API_INSECURE", "1")
    monkeypatch.setenv("PODBAY_API_CA_FILE", "/ca.crt")
    assert tls() == TlsSettings(enabled=True, ca_file=Path("/ca.crt"))


def test_groups_that_are_not_there_are_named():
    with make_client(endpoint="127.0.0.1:1", api_token="t") as client:
        with pytest.raises(AttributeError, match=r"Podbay's Client has no 'evaluations': .*models"):
            _ = client.evaluations
        assert not hasattr(client, "_no_such_thing")
        # Only the local platform's sessions are there at once; here a script sees the start.
        session = client.inferencesessions.client("id", "token", endpoint="generate", timeout=None)
        assert not isinstance(session, WaitingSessionClient)


def test_timeouts():
    assert seconds(3) == 3.0
    assert seconds(None) == seconds(importlib.import_module("dyff.client").Timeout()) == 86400.0
    with pytest.raises(TypeError, match="'reed'"):
        importlib.import_module("dyff.client").Timeout(1, reed=2)


def test_a_replica_is_led_to_podbay(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if _is_dyff(name)]:
        del sys.modules[name]
    others = [each for each in sys.meta_path if not isinstance(each, finder.DyffFinder)]
    monkeypatch.setattr(sys, "meta_path", others)
    path = Path(finder.__file__).with_name("replica_path")
    monkeypatch.syspath_prepend(str(path))
    names = run("import dyff\nfrom dyff.audit.local import mocks")
    assert names["mocks"].Echo is mocks.Echo
    assert names["dyff"].audit.local.mocks is names["mocks"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import dyff.schema.dataset", "dyff.schema.dataset, which is for data sets; infer_many"),
        ("from dyff.schema.dataset import text", "for data sets"),
        ("from dyff.schema import dataset", "for data sets"),
        ("import dyff.schema.v0.r1.dataset.vision", "for data sets"),
        ("from dyff.audit.workflows import local_evaluation", "for evaluations and reports"),
        ("import dyff.audit.analysis.legacy", "for measurements and safety cases"),
        ("from dyff.audit import scoring", "for scores"),
        ("import dyff.audit.metrics.text", "for scores"),
        ("import dyff.audit.anything", "for audits beyond inference"),
        ("from dyff.client.raw import models", "Podbay speaks gRPC"),
        ("import dyff.core", r"Podbay has no dyff\.core\. Of the platform's packages it has dyff"),
        ("from dyff.schema.platform import Method", "no 'Method' in dyff.schema.platform: it has"),
        ("from dyff.schema.requests import ReportCreateRequest", "no 'ReportCreateRequest' in"),
        ("from dyff.client import AsyncClient", "no 'AsyncClient' in dyff.client: it has what"),
    ],
)
def test_an_import_says_what_is_missing_and_what_for(source: str, text: str):
    with pytest.raises(ImportError, match=text):
        run(source)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("measurements.create({})", "no 'measurements': .*no part of audits.*has models"),
        ("evaluations", "no 'evaluations': it runs models"),
        ("quotas", "no 'quotas'"),
        ("inferencesessions.documentation", "no 'documentation': sessions are not documented"),
        ("inferencesessions.publish", "no 'publish': sessions are not published"),
        ("inferenceservices.fetch('id')", "no 'fetch': .*another id"),
        ("inferenceservices.purge('id')", r"no 'purge': .*delete\(id\)"),
        ("models.entity_path('id')", r"no 'entity_path': .*database.*get\(id\)\.json\(\)"),
        ("inferenceservices.link_entity('id')", "no 'link_entity'"),
        ("session.run_evaluation([])", r"no 'run_evaluation': .*infer_many\(items\)"),
        ("modells", "'Client' object has no attribute 'modells'"),
        ("models.creat", "models has no attribute 'creat'"),
    ],
)
def test_a_call_says_what_is_missing_and_what_to_use(expression: str, text: str):
    with make_client(endpoint="127.0.0.1:1", api_token="t") as client:
        client.__dict__["session"] = client.inferencesessions.client("id", "t", endpoint="x")
        with pytest.raises(AttributeError, match=text):
            eval(f"client.{expression}", {"client": client})
