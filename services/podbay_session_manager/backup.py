"""`python -m podbay_session_manager.backup`: what the session manager keeps, saved and loaded.

That is its database: sessions, replicas, nodes, and the keys that sign session tokens. What
replicas have written, and models' files that were fetched for them, are not part of it.
"""

from __future__ import annotations

import sys

from podbay_kit.backup import ServiceBackup, run_backup
from podbay_kit.storage_copy import Tables
from podbay_session_manager.tables import METADATA

BACKUP = ServiceBackup(
    "session_manager", "session-manager.sqlite3", Tables("podbay_session_manager", METADATA)
)

if __name__ == "__main__":
    sys.exit(run_backup(BACKUP))
