"""Checks at creation: what the JSON interface lets pass, and no service should begin with.

The models read everything that the platform reads, so that data from elsewhere stay readable.
A new resource is held to more.
"""

import base64
from collections.abc import Iterator, Sequence
from functools import singledispatch

from podbay.schema._hardware import Accelerator
from podbay.schema._local_requests import LocalInferenceServiceCreateRequest
from podbay.schema._model import (
    ModelArtifact,
    ModelArtifactKind,
    ModelSource,
    ModelSourceKinds,
    ModelSpec,
)
from podbay.schema._paths import check_portable_path
from podbay.schema._request_base import AccountRequest
from podbay.schema._runner import InferenceServiceRunner
from podbay.schema._service import InferenceInterface, InferenceServiceBase, SchemaAdapter
from podbay.schema._session import InferenceSessionBase

__all__ = ["check_creatable", "check_portable_path"]

_Problem = tuple[str, str]

_SOURCE_PAYLOADS = {
    ModelSourceKinds.GitLFS: "gitLFS",
    ModelSourceKinds.HuggingFaceHub: "huggingFaceHub",
    ModelSourceKinds.OpenLLM: "openLLM",
}
_ARTIFACT_PAYLOADS = {
    ModelArtifactKind.HuggingFaceCache: "huggingFaceCache",
    ModelArtifactKind.Volume: "volume",
}
_MD5_BYTES = 16
# The session manager keeps a record of each: a slip of the finger must not ask for two billion.
_MAX_REPLICAS = 1000
_REQUIRED_TEXTS = ("account", "name", "inferenceService")


def check_creatable(request: AccountRequest) -> list[_Problem]:
    """Checks a create request by the rules that the models leave to the services.

    Kinds and payloads must agree, counts and replicas be positive, a GPU have its options, and
    adapters be of a known kind with a configuration that can be built.

    Args:
        request: One of the create requests of `podbay.schema.requests`.

    Returns:
        What is wrong: the path of each field, as "runner.accelerator.gpu.count", and the broken
        rule. Empty where nothing is.
    """
    return [*_check_required(request), *_check_spec(request)]


def _check_required(request: AccountRequest) -> Iterator[_Problem]:
    for name in _REQUIRED_TEXTS:
        if getattr(request, name, None) == "":
            yield name, "is required and must not be empty"
    if request.account.endswith("\n"):
        yield "account", "must not end in a newline"


@singledispatch
def _check_spec(request: object) -> Iterator[_Problem]:
    raise TypeError(f"no rules of creation for {type(request).__name__}: pass a create request")


@_check_spec.register
def _check_model(request: ModelSpec) -> Iterator[_Problem]:
    yield from _check_payload("source", request.source, _SOURCE_PAYLOADS)
    yield from _check_payload("artifact", request.artifact, _ARTIFACT_PAYLOADS)
    yield from _check_files(request.artifact)
    yield from _check_origin(request.source, request.artifact)
    for index, accelerator in enumerate(request.accelerators or ()):
        yield from _check_accelerator(f"accelerators.{index}", accelerator)


@_check_spec.register
def _check_service(request: InferenceServiceBase) -> Iterator[_Problem]:
    yield from _check_interface(request.interface)
    for index, view in enumerate(request.outputViews):
        yield from _check_pipeline(f"outputViews.{index}.adapterPipeline", view.adapterPipeline)
    yield from _check_runner(request.runner)


@_check_spec.register
def _check_local_service(request: LocalInferenceServiceCreateRequest) -> Iterator[_Problem]:
    yield from _check_interface(request.interface)


@_check_spec.register
def _check_session(request: InferenceSessionBase) -> Iterator[_Problem]:
    if not 1 <= request.replicas <= _MAX_REPLICAS:
        yield "replicas", f"must be from 1 to {_MAX_REPLICAS:,}"
    if request.accelerator is not None:
        yield from _check_accelerator("accelerator", request.accelerator)


def _check_files(artifact: ModelArtifact) -> Iterator[_Problem]:
    files = artifact.volume.files if artifact.volume else []
    folders = {part for file in files for part in _folders_of(file.path)}
    seen: set[str] = set()
    for index, file in enumerate(files):
        path = f"artifact.volume.files.{index}"
        if file.size < 0:
            yield f"{path}.size", "must not be negative"
        if file.path in seen:
            yield f"{path}.path", "the same path comes before"
        if file.path in folders:
            yield f"{path}.path", "another file lies below this path, as if it were a folder"
        if file.digest.md5 is not None and not _is_md5(file.digest.md5):
            yield f"{path}.digest.md5", "must be an MD5 sum in base64"
        seen.add(file.path)


def _folders_of(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts)))


def _is_md5(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _MD5_BYTES
    except ValueError:
        return False


def _check_origin(source: ModelSource, artifact: ModelArtifact) -> Iterator[_Problem]:
    """Checks that what the source gives can be kept as the artifact says."""
    cache, hub = artifact.huggingFaceCache, source.huggingFaceHub
    if source.kind == ModelSourceKinds.OpenLLM and artifact.kind != ModelArtifactKind.Mock:
        yield (
            "source.kind",
            (
                "models of OpenLLM cannot be fetched: name the repository that holds the weights, "
                "with kind HuggingFaceHub or GitLFS"
            ),
        )
    if source.kind == ModelSourceKinds.Upload and artifact.kind != ModelArtifactKind.Volume:
        yield "artifact.kind", "must be Volume where source.kind is Upload: it lists the files"
    git = source.gitLFS
    if git is not None and (git.url.username or git.url.password):
        yield (
            "source.gitLFS.url",
            (
                "must hold no user and no password, which everybody could read who may see the "
                "model: only public repositories are fetched"
            ),
        )
    if cache is not None:
        try:
            check_portable_path(cache.snapshot_path())
        except ValueError:
            yield "artifact.huggingFaceCache", "repoID and revision do not make a path of a file"
    if cache is not None and hub is not None:
        for name in ("repoID", "revision"):
            if getattr(cache, name) != getattr(hub, name):
                yield f"artifact.huggingFaceCache.{name}", "must be that of source.huggingFaceHub"


def _check_payload(
    path: str,
    holder: ModelSource | ModelArtifact,
    payloads: dict[ModelSourceKinds, str] | dict[ModelArtifactKind, str],
) -> Iterator[_Problem]:
    for kind, name in payloads.items():
        present = getattr(holder, name) is not None
        if present != (kind == holder.kind):
            rule = f"is only for kind {kind}" if present else f"is required where kind is {kind}"
            yield f"{path}.{name}", rule


def _check_runner(runner: InferenceServiceRunner | None) -> Iterator[_Problem]:
    if runner is not None and runner.accelerator is not None:
        yield from _check_accelerator("runner.accelerator", runner.accelerator)


def _check_accelerator(path: str, accelerator: Accelerator) -> Iterator[_Problem]:
    if (accelerator.gpu is not None) != (accelerator.kind == "GPU"):
        rule = "is required where kind is GPU" if accelerator.kind == "GPU" else "is only for GPU"
        yield f"{path}.gpu", rule
    if accelerator.gpu is None:
        return
    if accelerator.gpu.count < 1:
        yield f"{path}.gpu.count", "must be at least 1"
    for index, hardware_type in enumerate(accelerator.gpu.hardwareTypes):
        if not hardware_type:
            yield f"{path}.gpu.hardwareTypes.{index}", "must not be empty"


def _check_interface(interface: InferenceInterface) -> Iterator[_Problem]:
    yield from _check_pipeline("interface.inputPipeline", interface.inputPipeline)
    yield from _check_pipeline("interface.outputPipeline", interface.outputPipeline)


def _check_pipeline(path: str, pipeline: Sequence[SchemaAdapter] | None) -> Iterator[_Problem]:
    if not pipeline:
        return
    # Building adapters needs the query engine, which reading a resource does not.
    from podbay.schema.adapters import (  # noqa: PLC0415 - heavy
        AdapterError,
        create_adapter,
        create_pipeline,
    )

    broken = False
    for index, spec in enumerate(pipeline):
        try:
            create_adapter(spec)
        except AdapterError as error:
            broken = True
            within = f".{error.path}" if error.path else ""
            yield f"{path}.{index}{within}", error.message
    if broken:
        return
    try:
        # Each step may be right, and their order not: a FileUpload must come last.
        create_pipeline(pipeline)
    except AdapterError as error:
        yield path, error.message
