"""Whether a session of a service can be run here, and what its records are. Pure.

A field that is accepted is honoured: what no driver of this installation can do is refused with
the field's name, and nothing is ignored in silence.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol

from podbay.schema import platform, requests
from podbay.schema.serving import ServingOptions
from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError, invalid
from podbay_session_manager.records import ServiceSpec, Serving, SessionRecord

__all__ = ["ANNOTATION_DOMAIN", "DriverSupport", "admit", "build_session"]

ANNOTATION_DOMAIN: Final = "podbay.dev/"
_MAX_REPLICAS: Final = 1000


class DriverSupport(Protocol):
    """What of a driver decides here."""

    @property
    def name(self) -> str:
        """The driver's name."""
        ...

    def supports(self, service: ServiceSpec) -> str | None:
        """Return None where the driver can run the service, else why not."""
        ...


def admit(
    request: requests.InferenceSessionCreateRequest,
    service: platform.InferenceService,
    drivers: Sequence[DriverSupport],
    now: datetime,
) -> str:
    """Return the name of the driver that runs the session.

    Args:
        request: The session that is asked for.
        service: The service that it runs.
        drivers: The drivers that are on, in the order of preference.
        now: The time.

    Raises:
        ServiceError: INVALID_REQUEST, REFERENCE_DELETED or UNSUPPORTED_SERVICE.
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
    if service.runner is None:
        raise _unsupported(service, "it has no runner", "Register it again, with a runner.")
    unmet = _unmet(request, service.runner)
    if unmet:
        raise _unsupported(
            service,
            f"no driver of this installation can give it {', '.join(unmet)}",
            "Leave these out, or use an installation whose drivers can.",
        )
    spec = _service_spec(service, service.runner)
    driver = _choose(service, spec, drivers)
    if spec.fixed_port is not None and request.replicas > 1:
        raise _unsupported(
            service,
            f"its env fixes PORT={spec.fixed_port}, so that only one replica can run on a node, "
            f"and the session asks for {request.replicas}",
            "Leave PORT out of the service's env, or ask for one replica.",
        )
    return driver


def build_session(
    request: requests.InferenceSessionCreateRequest,
    service: platform.InferenceService,
    driver: str,
    now: datetime,
) -> tuple[platform.InferenceSession, SessionRecord]:
    """Return a new session, as people see it and as the planner does.

    Args:
        request: The session that is asked for; `admit` let it pass.
        service: The service that it runs.
        driver: The driver that runs it.
        now: The time.

    Raises:
        pydantic.ValidationError: The service's serving options are not valid.
        ValueError: The service has no runner.
    """
    options = ServingOptions.from_annotations(service.annotations)
    fields = platform.ForeignInferenceService.model_fields
    entity = platform.InferenceSession(
        id=uuid.uuid4().hex,
        account=request.account,
        status="Created",
        creationTime=now,
        lastTransitionTime=now,
        annotations=[a for a in service.annotations if a.key.startswith(ANNOTATION_DOMAIN)],
        inferenceService=platform.ForeignInferenceService(
            **{name: getattr(service, name) for name in fields}
        ),
        expires=request.expires,
        replicas=request.replicas,
        accelerator=request.accelerator,
        useSpotPods=request.useSpotPods,
    )
    if service.runner is None:
        raise ValueError("a service without a runner is not admitted")
    record = SessionRecord(
        id=entity.id,
        account=entity.account,
        service=_service_spec(service, service.runner),
        serving=_serving(options),
        driver=driver,
        desired=request.replicas,
        created_at=now.timestamp(),
        expires=None if request.expires is None else request.expires.timestamp(),
    )
    return entity, record


def _service_spec(
    service: platform.InferenceService, runner: platform.InferenceServiceRunner
) -> ServiceSpec:
    return ServiceSpec(
        kind=runner.kind.value,
        name=service.name,
        command=tuple(runner.command or ()),
        args=tuple(runner.args or ()),
        env=tuple((variable.name, variable.value) for variable in runner.env or ()),
        working_dir=None if runner.workingDir is None else str(runner.workingDir),
    )


def _serving(options: ServingOptions) -> Serving:
    default = Serving()
    return Serving(
        readiness_path=options.readiness_path or default.readiness_path,
        start_timeout=options.start_timeout or default.start_timeout,
        # Zero is a grace, too.
        stop_grace=default.stop_grace if options.stop_grace is None else options.stop_grace,
        max_concurrency=options.max_concurrency or 0,
        safe_to_retry=bool(options.safe_to_retry),
        max_in_flight=options.max_in_flight or 0,
        queue_length=options.queue_length,
        queue_timeout=options.queue_timeout,
        hedge_after=options.hedge_after,
    )


def _unmet(
    request: requests.InferenceSessionCreateRequest, runner: platform.InferenceServiceRunner
) -> list[str]:
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
    }
    # Other kinds are refused by their kind, which says more.
    return [name for name, value in asked.items() if value] if runner.kind.value == "mock" else []


def _choose(
    service: platform.InferenceService, spec: ServiceSpec, drivers: Sequence[DriverSupport]
) -> str:
    if not drivers:
        raise _unsupported(
            service,
            "no driver is on",
            "Start the session manager with --drivers process (or inprocess, for mocks). `podbay "
            "up` does so.",
        )
    refusals: list[str] = []
    for driver in drivers:
        refusal = driver.supports(spec)
        if refusal is None:
            return driver.name
        refusals.append(f"{driver.name}: {refusal}")
    raise _unsupported(
        service,
        f"no driver that is on can ({'; '.join(refusals)})",
        "Use a service that one of them runs, or an installation with other drivers.",
    )


def _unsupported(service: platform.InferenceService, why: str, out: str) -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_UNSUPPORTED_SERVICE,
        f"The inference service {service.name!r} cannot be run here: {why}. {out}",
        metadata={"service": service.id},
    )
