"""What of the platform's clients is not there, and what to use instead."""

from __future__ import annotations

from typing import Final, NoReturn

__all__ = ["GROUPS", "no_such_call", "no_such_group"]

_FETCH: Final = (
    "what is copied would get another id here, and its container would not run: take the interface "
    "of the remote client's get(id), and give it to create_mock(..., interface=...)"
)
_STORE: Final = "resources are kept in a database, not in folders: get(id).json() has the same JSON"
_PURGE: Final = "nothing is removed for good by a call: delete(id) marks it, and ends a session"
_NOT_DOCUMENTED: Final = "sessions are not documented: their services are"

_CALLS: Final = {
    "fetch": _FETCH,
    "purge": _PURGE,
    "entity_path": _STORE,
    "link_entity": _STORE,
    "publish": "sessions are not published: their services are",
    "documentation": _NOT_DOCUMENTED,
    "edit_documentation": _NOT_DOCUMENTED,
    "run_evaluation": "there are no data sets: infer_many(items) runs over any iterable",
}

GROUPS: Final = frozenset(
    {
        "analyses", "artifacts", "challenges", "concerns", "curves", "datasets", "evaluations",
        "families", "hazards", "measurements", "methods", "modules", "pipelineruns", "pipelines",
        "quotas", "reports", "safetycases", "scores", "submissions", "teams", "usecases",
    }
)  # fmt: skip
"""The groups of the platform's API that Podbay does not have."""

_MEMBERS: Final = {
    "volumes": "models.files(id) lists the files of a model",
    "link_entity": _STORE,
}


def no_such_call(holder: str, name: str) -> NoReturn:
    """Refuse a call of a group that Podbay does not have.

    Args:
        holder: The group, or the class, as "models".
        name: What was asked for.

    Raises:
        AttributeError: Always.
    """
    why = _CALLS.get(name)
    if why is None:
        raise AttributeError(f"{holder} has no attribute {name!r}", name=name)
    raise AttributeError(f"Podbay's {holder} has no {name!r}: {why}", name=name)


def no_such_group(client: str, name: str) -> NoReturn:
    """Refuse a member of a client that Podbay does not have.

    Args:
        client: The client's class, as "Client".
        name: What was asked for.

    Raises:
        AttributeError: Always.
    """
    if name in GROUPS:
        why = (
            "it runs models, inference services and inference sessions, and has no part of audits "
            "beyond them; of the platform's API groups it has models, inferenceservices and "
            "inferencesessions"
        )
    elif _MEMBERS.get(name):
        why = _MEMBERS[name]
    else:
        raise AttributeError(f"{client!r} object has no attribute {name!r}", name=name)
    raise AttributeError(f"Podbay's {client} has no {name!r}: {why}", name=name)
