"""What can go wrong before a replica serves, and the exit code that stands for it.

The process form (`python -m podbay_kit.replica_server`) prints the error's text as one line and
exits with its code; the in-process form raises the error. Whoever starts replicas maps the codes
to reasons, so they are part of the contract and do not change.
"""

__all__ = [
    "BIND_FAILED_EXIT_CODE",
    "MOCK_FAILED_EXIT_CODE",
    "MOCK_NOT_IMPORTABLE_EXIT_CODE",
    "PORT_TAKEN_EXIT_CODE",
    "USAGE_EXIT_CODE",
    "BindFailedError",
    "MockFailedError",
    "MockNotImportableError",
    "PortTakenError",
    "ReplicaStartError",
]

USAGE_EXIT_CODE = 64
"""The command line, or a variable as `PORT`, is not what the server understands."""

MOCK_FAILED_EXIT_CODE = 70
"""The class was found, and building it failed."""

BIND_FAILED_EXIT_CODE = 71
"""The address cannot be listened on, for another reason than that it is taken."""

MOCK_NOT_IMPORTABLE_EXIT_CODE = 78
"""The class cannot be imported: no such module or class, or importing it failed."""

PORT_TAKEN_EXIT_CODE = 98
"""Another socket listens on the port."""


class ReplicaStartError(Exception):
    """A replica that cannot start.

    Attributes:
        exit_code: What the process form exits with.
    """

    exit_code = 1


class MockNotImportableError(ReplicaStartError):
    """The class of a mock cannot be imported, or is not a mock."""

    exit_code = MOCK_NOT_IMPORTABLE_EXIT_CODE


class MockFailedError(ReplicaStartError):
    """The constructor of a mock failed; its exception is the cause."""

    exit_code = MOCK_FAILED_EXIT_CODE


class PortTakenError(ReplicaStartError):
    """The port that the replica needs is taken."""

    exit_code = PORT_TAKEN_EXIT_CODE


class BindFailedError(ReplicaStartError):
    """The address cannot be listened on: not an address of this machine, or not allowed."""

    exit_code = BIND_FAILED_EXIT_CODE
