"""What a caller needs for each RPC: the one table. Pure.

The interceptor and the servicers decide by it (`podbay_kit.access`), and the comment of each RPC in
protos/ ends with the same words, `Grant: get on models.`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from podbay.v1 import errors_pb2

__all__ = ["FUNCTIONS", "RESOURCES", "RULES", "Found", "Kind", "Need", "Rule", "Who"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of resource, as refusals speak of it."""

    noun: str
    not_found: errors_pb2.ErrorReason.ValueType
    """The reason where an id does not exist; unspecified where ids are not looked up."""
    list_command: str
    """Lists those that a token reaches; empty where there is no such command."""


_NONE: Final = errors_pb2.ERROR_REASON_UNSPECIFIED

RESOURCES: Final[Mapping[str, Kind]] = {
    "accounts": Kind("account", errors_pb2.ERROR_REASON_ACCOUNT_NOT_FOUND, "podbay account list"),
    "apitokens": Kind(
        "API token", errors_pb2.ERROR_REASON_API_TOKEN_NOT_FOUND, "podbay token list"
    ),
    "models": Kind("model", errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, "podbay model list"),
    "inferenceservices": Kind(
        "inference service",
        errors_pb2.ERROR_REASON_INFERENCE_SERVICE_NOT_FOUND,
        "podbay service list",
    ),
    "inferencesessions": Kind(
        "inference session",
        errors_pb2.ERROR_REASON_INFERENCE_SESSION_NOT_FOUND,
        "podbay session list",
    ),
    "nodes": Kind("node", errors_pb2.ERROR_REASON_NODE_NOT_FOUND, "podbay node list"),
    "signingkeys": Kind("signing key", _NONE, "podbay key list"),
    "quotas": Kind("quota", _NONE, "podbay account quota show"),
    "audit": Kind("entry of the audit log", _NONE, "podbay audit list"),
}
"""The kinds of resources that grants speak of, by their names in grants."""

FUNCTIONS: Final = ("create", "get", "query", "edit", "delete", "consume", "terminate")
"""What grants allow."""


class Who(Enum):
    """Who may call an RPC at all."""

    GRANTED = "API tokens with a grant"
    ANY_TOKEN = "any API token"  # noqa: S105 # no secret
    SERVICES = "services only"
    SESSION_TOKEN = "a session token"  # noqa: S105 # no secret


class Found(Enum):
    """How the account and the id are found that a grant must cover."""

    ACCOUNT = "the account that the request names"
    RESOURCE = "the resource that the request names by its id, and its account"
    SHOWN = "a resource that another one shows, which the caller may see"
    LISTED = "each resource: those that the grants cover are shown"
    INSTALLATION = "the installation: grants on all accounts cover it, or on the id by its name"


@dataclass(frozen=True, slots=True)
class Need:
    """A function on a kind of resource, and of which resource."""

    function: str
    resource: str
    found: Found
    when: str = ""
    """Under which condition; always unless said."""

    def __str__(self) -> str:
        """Return the words for people, as "get on models"."""
        return f"{self.function} on {self.resource}" + (f" {self.when}" if self.when else "")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a caller needs for an RPC.

    Args:
        who: Who may call it at all.
        ways: Where grants decide: the sets of needs of which one is enough.
    """

    who: Who
    ways: tuple[tuple[Need, ...], ...] = ()

    def needs(self) -> Iterator[Need]:
        """Yield all needs of all ways."""
        for way in self.ways:
            yield from way

    def __str__(self) -> str:
        """Return the words of the RPC's comment, as "get on models"."""
        if self.who is not Who.GRANTED:
            return str(self.who.value)
        return "; or ".join(", ".join(map(str, way)) for way in self.ways)


_SERVICES: Final = Rule(Who.SERVICES)
_ANY: Final = Rule(Who.ANY_TOKEN)
_SESSION: Final = Rule(Who.SESSION_TOKEN)


def _needs(*needs: Need) -> Rule:
    return Rule(Who.GRANTED, (needs,))


def _named(function: str, resource: str) -> Rule:
    return _needs(Need(function, resource, Found.RESOURCE))


def _listed(resource: str) -> Rule:
    return _needs(Need("query", resource, Found.LISTED))


def _installation(function: str, resource: str) -> Rule:
    return _needs(Need(function, resource, Found.INSTALLATION))


_CREATE_SERVICE: Final = _needs(
    Need("create", "inferenceservices", Found.ACCOUNT),
    Need("get", "models", Found.RESOURCE, "where it names one"),
)
_CREATE_SESSION: Final = (
    Need("create", "inferencesessions", Found.ACCOUNT),
    Need("consume", "inferenceservices", Found.RESOURCE),
)

_REGISTRY: Final[Mapping[str, Rule]] = {
    "GetInstallation": _ANY,
    "CreateAccount": _needs(Need("create", "accounts", Found.ACCOUNT)),
    "ListAccounts": _listed("accounts"),
    "GetAccountQuota": _needs(Need("get", "quotas", Found.ACCOUNT)),
    # Limits are set for accounts, not by them.
    "SetAccountQuota": _installation("edit", "quotas"),
    "WatchAccountQuotas": _SERVICES,
    "CreateApiToken": _needs(Need("create", "apitokens", Found.ACCOUNT)),
    "ListApiTokens": _listed("apitokens"),
    "RevokeApiToken": _named("delete", "apitokens"),
    "Authenticate": _SERVICES,
    "CreateModel": _needs(Need("create", "models", Found.ACCOUNT)),
    "GetModel": _named("get", "models"),
    "ListModels": _listed("models"),
    "LabelModel": _named("edit", "models"),
    "EditModelDocumentation": _named("edit", "models"),
    "DeleteModel": _named("delete", "models"),
    "WatchModels": _listed("models"),
    "ListModelFiles": _named("get", "models"),
    "OfferModelFiles": _named("edit", "models"),
    "UploadModelFile": _named("edit", "models"),
    "FinalizeModel": _named("edit", "models"),
    "DownloadModelFile": _named("get", "models"),
    "StreamModelLogs": _named("get", "models"),
    "CreateInferenceService": _CREATE_SERVICE,
    "CreateLocalInferenceService": _CREATE_SERVICE,
    "GetInferenceService": _named("get", "inferenceservices"),
    "ListInferenceServices": _listed("inferenceservices"),
    "LabelInferenceService": _named("edit", "inferenceservices"),
    "EditInferenceServiceDocumentation": _named("edit", "inferenceservices"),
    "DeleteInferenceService": _named("delete", "inferenceservices"),
    "WatchInferenceServices": _listed("inferenceservices"),
    "ListAuditRecords": _listed("audit"),
}

_SESSION_MANAGER: Final[Mapping[str, Rule]] = {
    "CreateInferenceSession": Rule(Who.GRANTED, (_CREATE_SESSION,)),
    "GetInferenceSession": _named("get", "inferencesessions"),
    "ListInferenceSessions": _listed("inferencesessions"),
    "WatchInferenceSessions": _listed("inferencesessions"),
    "LabelInferenceSession": _named("edit", "inferencesessions"),
    "TerminateInferenceSession": _named("terminate", "inferencesessions"),
    "DeleteInferenceSession": _named("delete", "inferencesessions"),
    "CreateSessionToken": _needs(
        Need("get", "inferencesessions", Found.RESOURCE),
        Need("consume", "inferenceservices", Found.SHOWN),
    ),
    "RevokeSessionTokens": _named("edit", "inferencesessions"),
    "GetInferenceSessionStatus": _named("get", "inferencesessions"),
    "WatchInferenceSessionStatus": _named("get", "inferencesessions"),
    "StreamInferenceSessionLogs": _named("get", "inferencesessions"),
    "ListNodes": _installation("query", "nodes"),
    "GetNode": _installation("get", "nodes"),
    "CordonNode": _installation("edit", "nodes"),
    "UncordonNode": _installation("edit", "nodes"),
    "DrainNode": _installation("edit", "nodes"),
    "UndrainNode": _installation("edit", "nodes"),
    "DeclareNode": _installation("create", "nodes"),
    "WithdrawNode": _installation("delete", "nodes"),
    "WatchNodes": _installation("query", "nodes"),
    "ExplainPlacement": Rule(
        Who.GRANTED,
        ((Need("get", "inferencesessions", Found.RESOURCE),), _CREATE_SESSION),
    ),
    "ListSigningKeys": _installation("query", "signingkeys"),
    "RotateSigningKeys": _installation("create", "signingkeys"),
    "GetAccountUsage": _needs(Need("get", "quotas", Found.ACCOUNT)),
    "ListSessionAuditRecords": _listed("audit"),
    "WatchRoutes": _SERVICES,
    "AcknowledgeRoutes": _SERVICES,
    "ShareLimits": _SERVICES,
    "ReportReplica": _SERVICES,
    "ReportUsage": _SERVICES,
}

_ROUTER: Final[Mapping[str, Rule]] = {
    "Infer": _SESSION,
    "StreamInfer": _SESSION,
    "Exchange": _SESSION,
}

RULES: Final[Mapping[str, Rule]] = {
    f"/podbay.v1.{service}/{method}": rule
    for service, rules in (
        ("RegistryService", _REGISTRY),
        ("SessionManagerService", _SESSION_MANAGER),
        ("InferenceRouterService", _ROUTER),
    )
    for method, rule in rules.items()
}
"""What each RPC needs, by its full name."""
