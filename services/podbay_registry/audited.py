"""Which RPCs of the registry change something: each call of them is in the audit log."""

from __future__ import annotations

from typing import Final

__all__ = ["CHANGING", "READING"]

CHANGING: Final = frozenset(
    {
        "CreateAccount",
        "SetAccountQuota",
        "CreateApiToken",
        "RevokeApiToken",
        "CreateModel",
        "LabelModel",
        "EditModelDocumentation",
        "DeleteModel",
        "OfferModelFiles",
        "UploadModelFile",
        "FinalizeModel",
        "CreateInferenceService",
        "CreateLocalInferenceService",
        "LabelInferenceService",
        "EditInferenceServiceDocumentation",
        "DeleteInferenceService",
    }
)

READING: Final = frozenset(
    {
        "GetInstallation",
        "ListAccounts",
        "GetAccountQuota",
        "WatchAccountQuotas",
        "ListApiTokens",
        "Authenticate",
        "GetModel",
        "ListModels",
        "WatchModels",
        "ListModelFiles",
        "DownloadModelFile",
        "StreamModelLogs",
        "GetInferenceService",
        "ListInferenceServices",
        "WatchInferenceServices",
        "ListAuditRecords",
    }
)
"""Those that change nothing: they are in the log where they are refused for who calls."""
