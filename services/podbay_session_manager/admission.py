"""Whether a session of a service can be run here, and what its records are. Pure.

A field that is accepted is honoured: what no driver of this installation can do is refused with
the field's name, and nothing is ignored in silence.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from podbay.schema import platform, requests
from podbay.schema.serving import ServingOptions
from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError, invalid
from podbay_session_manager.admission_runner import (
    container_spec,
    mock_spec,
    read_needs,
    unsupported,
)
from podbay_session_manager.records import Needs, ServiceSpec, Serving, SessionRecord
from podbay_session_manager.runner_kinds import RunnerKind

__all__ = [
    "ANNOTATION_DOMAIN",
    "Admission",
    "AdmissionRules",
    "DriverSupport",
    "admit",
    "build_session",
]

ANNOTATION_DOMAIN: Final = "podbay.dev/"
_MAX_REPLICAS: Final = 1000


class DriverSupport(Protocol):
    """What of a driver decides here."""

    @property
    def kind(self) -> str:
        """The kind of the driver."""
        ...

    def supports(self, service: ServiceSpec) -> str | None:
        """Return None where the driver can run the service, else why not."""
        ...


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """What an installation can do."""

    drivers: Sequence[DriverSupport]
    """One driver of each kind that is on, in the order of preference."""
    kinds: Mapping[str, RunnerKind]
    """How the kinds of runners are run."""
    allow_egress: bool = False
    """Whether replicas may open connections to the outside that ask for it."""
    lacks_nodes: bool = False
    """Whether nodes can be declared and none is."""


@dataclass(frozen=True, slots=True)
class Admission:
    """How a session is run that is admitted."""

    driver: str
    """The kind of driver that runs it."""
    service: ServiceSpec
    serving: Serving
    needs: Needs
    endpoint: str
    """The endpoint of the service; that of its kind where its interface names none."""


def admit(
    request: requests.InferenceSessionCreateRequest,
    service: platform.InferenceService,
    rules: AdmissionRules,
    now: datetime,
) -> Admission:
    """Return how a session is run.

    Args:
        request: The session that is asked for.
        service: The service that it runs.
        rules: What the installation can do.
        now: The time.

    Raises:
        ServiceError: INVALID_REQUEST, REFERENCE_DELETED or UNSUPPORTED_SERVICE.
        pydantic.ValidationError: The service's serving options are not valid.
    """
    if request.expires is not None and request.expires <= now:
        raise invalid("expires", "must be in the future")
    if request.replicas > _MAX_REPLICAS:
        raise invalid("replicas", f"must be at most {_MAX_REPLICAS}")
    if service.status == "Deleted":
        raise ServiceError(
            errors_pb2.ERROR_REASON_REFERENCE_DELETED,
            f"The inference service {service.name!r} ({service.id}) was deleted. Use another one: "
            "podbay service list.",
        )
    runner = service.runner
    if runner is None:
        raise unsupported(service, "it has no runner", "Register it again, with a runner.")
    options = ServingOptions.from_annotations(service.annotations)
    if runner.kind.value == "mock":
        _refuse_for_mock(request, service, runner, options)
        kind, spec, needs = RunnerKind(), mock_spec(service, runner), Needs()
    else:
        kind = rules.kinds[runner.kind.value]
        spec = container_spec(service, runner, kind, egress=bool(options.egress))
        needs = read_needs(request, service, runner)
    if spec.egress and not rules.allow_egress:
        raise unsupported(
            service,
            "its serving options ask for egress, and the operator of this installation has not "
            "allowed replicas to open connections to the outside",
            "Leave egress out, or start the session manager with --allow-egress.",
        )
    driver = _choose(service, spec, rules)
    if spec.fixed_port is not None and request.replicas > 1 and not spec.image:
        raise unsupported(
            service,
            f"its env fixes PORT={spec.fixed_port}, so that only one replica can run on a node, "
            f"and the session asks for {request.replicas}",
            "Leave PORT out of the service's env, or ask for one replica.",
        )
    return Admission(
        driver, spec, _serving(options, kind), needs, service.interface.endpoint or kind.endpoint
    )


def build_session(
    request: requests.InferenceSessionCreateRequest,
    service: platform.InferenceService,
    admission: Admission,
    now: datetime,
) -> tuple[platform.InferenceSession, SessionRecord]:
    """Return a new session, as people see it and as the planner does.

    Args:
        request: The session that is asked for; `admit` let it pass.
        service: The service that it runs.
        admission: How it is run.
        now: The time.
    """
    fields = platform.ForeignInferenceService.model_fields
    foreign = platform.ForeignInferenceService(**{name: getattr(service, name) for name in fields})
    if admission.endpoint != foreign.interface.endpoint:
        interface = foreign.interface.model_copy(update={"endpoint": admission.endpoint})
        foreign = foreign.model_copy(update={"interface": interface})
    entity = platform.InferenceSession(
        id=uuid.uuid4().hex,
        account=request.account,
        status="Created",
        creationTime=now,
        lastTransitionTime=now,
        annotations=[a for a in service.annotations if a.key.startswith(ANNOTATION_DOMAIN)],
        inferenceService=foreign,
        expires=request.expires,
        replicas=request.replicas,
        accelerator=request.accelerator,
        useSpotPods=request.useSpotPods,
    )
    record = SessionRecord(
        id=entity.id,
        account=entity.account,
        service=admission.service,
        serving=admission.serving,
        driver=admission.driver,
        desired=request.replicas,
        created_at=now.timestamp(),
        expires=None if request.expires is None else request.expires.timestamp(),
        needs=admission.needs,
    )
    return entity, record


def _serving(options: ServingOptions, kind: RunnerKind) -> Serving:
    default = Serving()
    return Serving(
        readiness_path=options.readiness_path or kind.readiness_path,
        start_timeout=options.start_timeout or kind.start_timeout,
        # Zero is a grace, too.
        stop_grace=default.stop_grace if options.stop_grace is None else options.stop_grace,
        max_concurrency=options.max_concurrency or 0,
        safe_to_retry=bool(options.safe_to_retry),
        max_in_flight=options.max_in_flight or 0,
        queue_length=options.queue_length,
        queue_timeout=options.queue_timeout,
        hedge_after=options.hedge_after,
    )


def _refuse_for_mock(
    request: requests.InferenceSessionCreateRequest,
    service: platform.InferenceService,
    runner: platform.InferenceServiceRunner,
    options: ServingOptions,
) -> None:
    """Refuse what the drivers of processes cannot give."""
    resources = runner.resources
    asked = {
        "accelerator": request.accelerator,
        "runner.accelerator": runner.accelerator,
        "runner.image": runner.image,
        "runner.imageRef": runner.imageRef,
        "runner.volumeMounts": runner.volumeMounts,
        "runner.nodes > 1": runner.nodes > 1,
        "runner.resources.cpu": resources.cpu,
        "runner.resources.memory": resources.memory,
        "runner.resources.storage": resources.storage,
        "egress (a process is not cut off from the outside)": options.egress,
    }
    unmet = [name for name, value in asked.items() if value]
    if unmet:
        raise unsupported(
            service,
            f"it is a mock, and no driver of processes can give it {', '.join(unmet)}",
            "Leave these out, or register it as a service of the kind container.",
        )


def _choose(service: platform.InferenceService, spec: ServiceSpec, rules: AdmissionRules) -> str:
    refusals: list[str] = []
    for driver in rules.drivers:
        refusal = driver.supports(spec)
        if refusal is None:
            return driver.kind
        refusals.append(f"{driver.kind}: {refusal}")
    if rules.lacks_nodes:
        refusals.append("docker: no node is declared (podbay node declare FILE)")
    if not refusals:
        raise unsupported(
            service,
            "no driver is on",
            "Start the session manager with --drivers process (or inprocess, for mocks), as "
            "`podbay up` does; for containers with --drivers docker, and declare nodes.",
        )
    raise unsupported(
        service,
        f"no driver that is on can ({'; '.join(refusals)})",
        "Use a service that one of them runs, or an installation with other drivers.",
    )
