"""Whether a service on this machine is healthy."""

from __future__ import annotations

from pathlib import Path

from podbay.local.faults import LocalError

__all__ = ["is_serving"]


def is_serving(endpoint: str, timeout: float = 1.0, ca_file: Path | None = None) -> bool:
    """Ask a service by the standard health protocol whether it takes calls.

    Args:
        endpoint: Its address, as "127.0.0.1:7101".
        timeout: Seconds to wait for the answer.
        ca_file: The certificate of the authority, where the service speaks TLS.

    Raises:
        LocalError: The health protocol's package is not installed.
    """
    import grpc  # noqa: PLC0415 # takes long to import, and only this function needs it

    try:
        from grpc_health.v1 import health_pb2  # noqa: PLC0415 # an extra
    except ImportError as error:
        raise LocalError(
            "LOCAL_PLATFORM_NOT_INSTALLED",
            "this installation holds the client only: grpcio-health-checking is missing",
            way_out="install the local platform: pip install 'podbay[local]'",
        ) from error
    options = [
        ("grpc.enable_http_proxy", 0),
        # A connection of its own: one that is shared would keep the back-off of earlier tries.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if ca_file is None:
        opened = grpc.insecure_channel(endpoint, options=options)
    else:
        credentials = grpc.ssl_channel_credentials(ca_file.read_bytes())
        opened = grpc.secure_channel(endpoint, credentials, options=options)
    with opened as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            # gRPC tells of success without a message where the time is up as the answer comes.
            answer: health_pb2.HealthCheckResponse | None = check(
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError:
            return False
    return answer is not None and answer.status == health_pb2.HealthCheckResponse.SERVING
