"""A trace goes from the client through the services to the replica."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from podbay._core.tracing import current_trace, trace_metadata
from podbay.v1 import errors_pb2
from podbay.v1.registry_service_pb2 import GetInstallationRequest, GetInstallationResponse
from podbay_kit.errors import ServiceError
from podbay_kit.interceptors import PodbayInterceptor
from podbay_kit.tracing import Spans, configured_spans
from tests.support.eventually import eventually
from tests.support.router_fakes import ReplicaCall, echo
from tests.support.router_rig import Rig, call, running_rig

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    # Not set for the process: that can be done once only, and would trace all other tests.
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    yield made
    made.shutdown()


@pytest.fixture
def spans(provider: TracerProvider) -> Spans:
    return Spans(provider.get_tracer("test"), trace.SpanKind, TraceContextTextMapPropagator())


@pytest.fixture
async def rig(spans: Spans) -> AsyncIterator[Rig]:
    async with running_rig() as made:
        made.worker.dispatcher.spans = spans
        yield made


def test_without_a_provider_there_are_no_spans() -> None:
    assert configured_spans("x") is None
    assert current_trace() == ("", "")
    assert trace_metadata() == ()


def test_the_clients_context_is_the_current_spans(provider: TracerProvider) -> None:
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("job") as span:
        parent, state = current_trace()
        assert trace_metadata() == (("traceparent", parent),)
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span))
    assert (parent, state) == (carrier["traceparent"], "")


async def test_a_call_has_a_span_between_the_caller_and_the_replica(
    rig: Rig, exporter: InMemorySpanExporter
) -> None:
    async def picky(request: ReplicaCall) -> None:
        if request.body == b"2":
            await request.reply(b"secret", status=500)
        else:
            await echo(request)

    (replica,) = await rig.session("s", picky)
    client = rig.exchange("s")
    await client.send(call(1, b"1", traceparent=PARENT), call(2, b"2", traceparent=PARENT))
    await client.results(2)
    await rig.infer("s", b"3", metadata=[*rig.metadata("s"), ("traceparent", PARENT)])
    await rig.infer("s", b"4")
    await eventually(lambda: len(exporter.get_finished_spans()) == 4, "all spans have ended")
    by_parent = {f"{span.context.span_id:016x}": span for span in exporter.get_finished_spans()}
    for request in replica.calls:
        _, trace_id, span_id, _ = request.headers["traceparent"].split("-")
        span = by_parent[span_id]
        assert span.name == "podbay.call"
        assert span.attributes is not None
        assert span.attributes["podbay.session"] == "s"
        assert span.attributes["podbay.replica"] == "s-r0"
        if request.body == b"4":
            assert span.parent is None
            continue
        assert trace_id == PARENT.split("-")[1]
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
        if request.body == b"2":
            assert span.status.status_code is StatusCode.ERROR
            assert span.attributes["podbay.reason"] == "REPLICA_REFUSED"
            assert "secret" not in span.to_json()
        else:
            assert span.status.status_code is StatusCode.UNSET
    await client.finish()


async def test_every_span_ends_also_where_the_caller_goes(
    rig: Rig, exporter: InMemorySpanExporter
) -> None:
    async def stall(request: ReplicaCall) -> None:
        await request.closed.wait()

    (replica,) = await rig.session("s", stall, max_concurrency=1)
    client = rig.exchange("s")
    await client.send(*[call(number) for number in range(5)])
    await eventually(lambda: replica.calls, "the replica has a call")
    client.stream.cancel()
    await eventually(lambda: len(exporter.get_finished_spans()) == 5, "all spans have ended")
    await rig.idle()


def fail_within(spans: Spans, error: Exception) -> None:
    method = "/podbay.v1.RegistryService/GetModel"
    with spans.rpc(method, [("traceparent", PARENT), ("x", b"\0")]):
        assert current_trace()[0].startswith(PARENT[:35])
        raise error


def test_a_span_around_an_rpc_tells_the_reason_and_no_text(
    spans: Spans, exporter: InMemorySpanExporter
) -> None:
    with pytest.raises(KeyError):
        fail_within(spans, KeyError("secret"))
    with pytest.raises(ServiceError):
        fail_within(spans, ServiceError(errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, "secret"))
    defect, known = exporter.get_finished_spans()
    assert defect.name == known.name == "podbay.v1.RegistryService/GetModel"
    assert defect.parent is not None
    assert (defect.attributes or {})["podbay.reason"] == "KeyError"
    assert (known.attributes or {})["podbay.reason"] == "MODEL_NOT_FOUND"
    assert known.status.status_code is StatusCode.ERROR
    assert "secret" not in defect.to_json() + known.to_json()


async def test_a_server_puts_spans_around_its_rpcs(
    spans: Spans, exporter: InMemorySpanExporter
) -> None:
    seen: list[str] = []

    async def get(_request: object, _context: object) -> GetInstallationResponse:
        seen.append(current_trace()[0])
        return GetInstallationResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        get, GetInstallationRequest.FromString, GetInstallationResponse.SerializeToString
    )
    interceptor = PodbayInterceptor(None, reject_unknown_fields=True, spans=spans)
    server = grpc.aio.server(interceptors=[interceptor], options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("podbay.v1.RegistryService", {"Get": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            rpc = channel.unary_unary("/podbay.v1.RegistryService/Get")
            await rpc(b"", metadata=[("traceparent", PARENT)], timeout=20)
    finally:
        await server.stop(0)
    (span,) = exporter.get_finished_spans()
    assert seen == [f"{PARENT[:36]}{span.context.span_id:016x}-01"]
