"""Whether a service can run as containers here. Pure."""

from __future__ import annotations

from podbay_session_manager.drivers.containers.settings import DockerSettings
from podbay_session_manager.records import PORT_VARIABLE, DataMount, ServiceSpec

__all__ = ["supports_image"]


def supports_image(service: ServiceSpec, settings: DockerSettings) -> str | None:
    """Return None where containers can run a service, else why not, for people."""
    if not service.image:
        return f"it runs images, and this service of kind {service.kind!r} has none"
    if "@sha256:" not in service.image:
        return "it pulls images by their digests, and this service's image has none"
    if service.egress and not settings.allow_egress:
        return (
            "the service asks for a way out of its network, which the operator of this "
            "installation does not allow"
        )
    port = dict(service.env).get(PORT_VARIABLE)
    if port is not None and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        return "PORT in the service's env is not a number between 1 and 65535"
    if settings.resolve_mount is None and any(isinstance(m, DataMount) for m in service.mounts):
        return "this installation does not keep files of resources that services could mount"
    return None
