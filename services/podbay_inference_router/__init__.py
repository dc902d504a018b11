"""The inference router: calls go in as gRPC, and out to a session's replicas as HTTP."""
