"""Asks a registry whether it has images of a name: engines tell only that a manifest is unknown."""

from __future__ import annotations

import http.client
import logging
import ssl
from typing import Final

__all__ = ["knows_name"]

_LOG = logging.getLogger(__name__)
_SECONDS: Final = 3.0


def knows_name(image: str) -> bool | None:
    """Return whether a registry has any image of a name; None where it does not tell. Blocks.

    It is asked without credentials, once, and only where an engine got an answer from it: a private
    one does not tell.

    Args:
        image: The image, as "host/name@sha256:...".
    """
    host, _, rest = image.partition("/")
    name = rest.partition("@")[0]
    for connect in (_secure, http.client.HTTPConnection):
        connection = connect(host, timeout=_SECONDS)
        try:
            connection.request("GET", f"/v2/{name}/tags/list?n=1")
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException, ValueError) as error:
            _LOG.debug("the registry %s does not tell: %s", host, error)
            continue
        finally:
            connection.close()
        return {200: True, 404: False}.get(status)
    return None


def _secure(host: str, timeout: float) -> http.client.HTTPConnection:
    return http.client.HTTPSConnection(host, timeout=timeout, context=ssl.create_default_context())
