"""The synchronous face of the client, on gRPC's synchronous API."""
