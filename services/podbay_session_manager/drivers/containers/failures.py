"""What the engine says, as reasons out of the catalogue. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from podbay_session_manager.drivers.containers.engine import EngineError
from podbay_session_manager.drivers.contract import LaunchSpec, StartFailedError
from podbay_session_manager.drivers.process_launch import MOCK_EXITS
from podbay_session_manager.records import Reason, ServiceSpec

__all__ = ["end_reason", "is_no_space", "pull_failure", "start_failure"]

_MIB: Final = 1 << 20

_UNREACHABLE: Final = (
    "connection refused", "no such host", "i/o timeout", "dial tcp", "tls handshake", "x509:",
    "no route to host", "network is unreachable", "request canceled", "connection reset",
    "server gave http response", "deadline exceeded", "temporary failure in name resolution",
    "unexpected eof", "service unavailable", "bad gateway", "toomanyrequests",
)  # fmt: skip
_DENIED: Final = (
    "denied", "unauthorized", "authentication required", "no basic auth", "forbidden",
)  # fmt: skip
_NAME: Final = ("name unknown", "name_unknown", "repository name not known")
_MANIFEST: Final = ("manifest unknown", "not found", "no matching manifest", "name invalid")


def is_no_space(text: str) -> bool:
    """Return whether the engine has no room on its disk."""
    return "no space left on device" in text.lower() or "disk quota exceeded" in text.lower()


def pull_failure(image: str, error: EngineError, *, name_known: bool | None) -> StartFailedError:
    """Return why an image could not be pulled.

    Args:
        image: The image, as "host/name@sha256:...".
        error: What the engine said.
        name_known: Whether the registry has other images of this name; None where that is not
            known.
    """
    text = error.text.lower()
    name, _, digest = image.partition("@")
    host = name.partition("/")[0]
    if is_no_space(text):
        return _disk_full(f"pulling the image {image}")
    if any(part in text for part in _DENIED):
        return StartFailedError(
            Reason.IMAGE_PULL_DENIED,
            f"The registry {host} does not let this node pull {image}: it is private, or not "
            f"there. The engine said: {error.text}. Log in as the user of the session manager "
            f"(docker login {host}), or mend the service's image.",
        )
    if any(part in text for part in _UNREACHABLE):
        return StartFailedError(
            Reason.REGISTRY_UNREACHABLE,
            f"The registry {host} of the image {image} cannot be reached from this node. The "
            f"engine said: {error.text}. Start the registry, or mend the node's network; a "
            "registry without TLS must be in the engine's insecure-registries.",
        )
    if any(part in text for part in _NAME) or name_known is False:
        return StartFailedError(
            Reason.IMAGE_NOT_FOUND,
            f"The registry {host} has no image {name}. Push it, or mend the service's image.",
        )
    if any(part in text for part in _MANIFEST):
        about = "has images of this name, and" if name_known else "answers, and"
        return StartFailedError(
            Reason.IMAGE_DIGEST_NOT_FOUND,
            f"The registry {host} {about} none of {name} with the digest {digest} for this node's "
            "platform. Push it again, and give the service the digest that the push prints.",
        )
    return StartFailedError(
        Reason.START_FAILED,
        f"The image {image} could not be pulled. The engine said: {error.text}. See the engine's "
        "log on the node.",
    )


def start_failure(spec: LaunchSpec, error: EngineError) -> StartFailedError:
    """Return why a container could not be created or started."""
    text = error.text.lower()
    service = spec.service
    if is_no_space(text):
        return _disk_full("starting the replica")
    if spec.gpus and any(
        part in text for part in ("device driver", "nvidia", "nvml", "unknown device", "gpu")
    ):
        return StartFailedError(
            Reason.GPU_UNAVAILABLE,
            f"The engine cannot give the replica the GPUs {', '.join(spec.gpus)} of this node. It "
            f"said: {error.text}. See that nvidia-smi works on the node, and that the NVIDIA "
            "container toolkit is installed for its engine.",
        )
    of_command = _command_failure(service, text, error.text)
    if of_command is not None:
        return of_command
    if "port is already allocated" in text or "address already in use" in text:
        return StartFailedError(
            Reason.PORT_TAKEN, f"The port of the replica is taken on this node: {error.text}."
        )
    if "cannot assign requested address" in text:
        return StartFailedError(
            Reason.START_FAILED,
            "The replica's port cannot be published: the declared address of the node is none of "
            f"its machine's. The engine said: {error.text}. Declare the node with an address of "
            "its own (podbay node declare FILE).",
        )
    missing = ("not a directory", "no such file", "does not exist")
    if "mount" in text and any(part in text for part in missing):
        return StartFailedError(
            Reason.DATA_UNAVAILABLE, f"What the replica mounts cannot be mounted: {error.text}."
        )
    if any(part in text for part in ("working directory", "chdir to cwd", "cannot mkdir")):
        return StartFailedError(
            Reason.WORKING_DIRECTORY_NOT_FOUND,
            f"The working directory {service.working_dir} cannot be used in the image "
            f"{service.image}. The engine said: {error.text}. Give the service another workingDir.",
        )
    return StartFailedError(
        Reason.START_FAILED,
        f"The engine could not start the container. It said: {error.text}. See the engine's log "
        "on the node.",
    )


def _command_failure(service: ServiceSpec, text: str, said: str) -> StartFailedError | None:
    """Return what is wrong with a command or its user; None where nothing is.

    Args:
        service: What was to be started.
        text: What the engine said, in lower case.
        said: The same as it was.
    """
    command = service.command[0] if service.command else "of the image"
    if "no command specified" in text:
        return StartFailedError(
            Reason.COMMAND_NOT_FOUND,
            f"The image {service.image} has no command of its own, and the service gives none. "
            "Give it one (runner.command), or the image an ENTRYPOINT or CMD.",
        )
    if "unable to find user" in text or "unable to find group" in text:
        return StartFailedError(
            Reason.START_FAILED,
            f"The image {service.image} names a user or group by a name that it does not know. "
            f"The engine said: {said}. Name it by its number in the image (USER 1000:1000), "
            "or add it to the image's /etc/passwd.",
        )
    if "exec:" in text or "exec format error" in text:
        if "permission denied" in text or "exec format error" in text:
            return StartFailedError(
                Reason.COMMAND_NOT_EXECUTABLE,
                f"The command {command} cannot be executed in the image {service.image}: it has "
                "no permission to (chmod +x), is a folder, or is a program for another kind of "
                f"machine. The engine said: {said}.",
            )
        if "not found" in text or "no such file" in text:
            return StartFailedError(
                Reason.COMMAND_NOT_FOUND,
                f"The command {command} is not in the image {service.image}. The engine said: "
                f"{said}. Mend runner.command, or the image.",
            )
    return None


def end_reason(details: Mapping[str, Any], *, mock: bool) -> tuple[Reason, str]:
    """Return why a container ended, where the engine knows more than its exit code tells.

    Args:
        details: What the engine tells of the container.
        mock: Whether it ran the server of mocks, whose exit codes say more.
    """
    state = details.get("State") or {}
    code = state.get("ExitCode")
    if state.get("Status") == "created":
        said = f" The engine said: {state['Error']}." if state.get("Error") else ""
        return (
            Reason.START_FAILED,
            (
                "The container was created and never started: the session manager ended, or lost "
                f"the engine, in between.{said}"
            ),
        )
    if state.get("OOMKilled") and code != 0:
        limit = int((details.get("HostConfig") or {}).get("Memory") or 0) // _MIB
        return (
            Reason.OUT_OF_MEMORY,
            (
                f"The replica needed more memory than the {limit} MiB that it may use, and was "
                "killed by the kernel. Give the service more (runner.resources.memory), or let it "
                "use less; temporary files, shared memory and small scratch space count, too."
            ),
        )
    if is_no_space(str(state.get("Error") or "")):
        failure = _disk_full("running the replica")
        return failure.reason, failure.message
    if mock and code is not None and code in MOCK_EXITS:
        return MOCK_EXITS[int(code)]
    return Reason.NONE, ""


def _disk_full(doing: str) -> StartFailedError:
    return StartFailedError(
        Reason.DISK_FULL,
        f"The node's disk has no room left for {doing}. Make some (docker system prune on the "
        "node), or give the engine a larger disk.",
    )
