"""What the two faces of the client share: no I/O, no threads, no clock."""
