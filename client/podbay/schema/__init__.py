"""The JSON interface: resources, requests and adapters as pydantic models.

Nothing is imported here, so that a program pays only for the part that it uses:
`podbay.schema.platform` has the resources, `podbay.schema.requests` what is sent.
"""
