"""Replicas as containers of a Docker Engine."""
