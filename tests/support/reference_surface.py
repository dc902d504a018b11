"""Tells the surface of the platform's client, in an environment that has it.

Runs as a program; writes JSON: by group, then by method, each parameter with its kind and whether
it has a default.
"""

import inspect
import json
import sys
import warnings
from typing import Any


def surface(thing: Any) -> dict[str, dict[str, list[Any]]]:
    """The public methods of an object or a class, each with its parameters."""
    methods = {}
    for name in dir(thing):
        value = getattr(thing, name)
        if name.startswith("_") or not callable(value):
            continue
        parameters = inspect.signature(value).parameters.values()
        methods[name] = {
            p.name: [p.kind.name, p.default is not p.empty] for p in parameters if p.name != "self"
        }
    return methods


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    from dyff.client import Client, InferenceSessionClient, errors

    client = Client(api_token="t")
    json.dump(
        {
            "models": surface(client.models),
            "inferenceservices": surface(client.inferenceservices),
            "inferencesessions": surface(client.inferencesessions),
            "session client": surface(InferenceSessionClient),
            "client": [name for name in dir(client) if not name.startswith("_")],
            "raw.models": surface(client.raw.models),
            "raw.inferenceservices": surface(client.raw.inferenceservices),
            "raw.inferencesessions": surface(client.raw.inferencesessions),
            "errors": errors.__all__,
        },
        sys.stdout,
    )
