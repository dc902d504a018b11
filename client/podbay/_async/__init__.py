"""The asynchronous face of the client, on gRPC's asyncio API."""
