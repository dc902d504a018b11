"""Which RPCs of the session manager change something: each call of them is in the audit log."""

from __future__ import annotations

from typing import Final

__all__ = ["CHANGING", "READING"]

CHANGING: Final = frozenset(
    {
        "CreateInferenceSession",
        "LabelInferenceSession",
        "TerminateInferenceSession",
        "DeleteInferenceSession",
        "CreateSessionToken",
        "RevokeSessionTokens",
        "CordonNode",
        "UncordonNode",
        "DrainNode",
        "UndrainNode",
        "DeclareNode",
        "WithdrawNode",
        "RotateSigningKeys",
    }
)

READING: Final = frozenset(
    {
        "GetInferenceSession",
        "ListInferenceSessions",
        "WatchInferenceSessions",
        "GetInferenceSessionStatus",
        "WatchInferenceSessionStatus",
        "StreamInferenceSessionLogs",
        "ListNodes",
        "GetNode",
        "WatchNodes",
        "ExplainPlacement",
        "ListSigningKeys",
        "GetAccountUsage",
        "ListSessionAuditRecords",
        # What routers tell of themselves all the time.
        "WatchRoutes",
        "AcknowledgeRoutes",
        "ShareLimits",
        "ReportReplica",
        "ReportUsage",
    }
)
"""Those that change nothing that is stored: they are in the log where they are refused for who
calls."""
