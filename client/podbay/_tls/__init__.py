"""What clients do about TLS that reads files or the network."""
