"""Mocks in the process of whoever made them, behind the same web server as elsewhere.

A `MockHost` runs in the process of a script or a notebook: it holds classes that no other process
can import, and serves them as replicas when the session manager asks for one. The session manager
finds hosts by the files in a folder (`find_hosts`).
"""

from podbay_kit.mock_host.host import UNKNOWN_KEY, MockHost
from podbay_kit.mock_host.records import HostRecord, find_hosts

__all__ = ["UNKNOWN_KEY", "HostRecord", "MockHost", "find_hosts"]
