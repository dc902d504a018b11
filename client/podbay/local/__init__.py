"""What runs on one machine: the mocks, and the local platform."""
