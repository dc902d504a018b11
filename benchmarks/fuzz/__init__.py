"""Attacks on running services: messages, tokens, metadata, connections and HTTP/2 frames."""
