"""`python -m podbay_registry.fetching`: fetches the files of one model.

The job comes as one line of JSON on stdin, and events leave as lines of JSON on stdout. When stdin
ends, the registry is gone, and this process ends with all that it started.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from podbay_registry.fetch_plan import FetchFailure, FetchJob
from podbay_registry.fetching import git, hub
from podbay_registry.fetching.events import Events, os_failure


def main() -> int:
    """Fetch, and return the exit code: 0 where the outcome was told."""
    # What libraries print must not come between the events.
    events = Events(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    job = FetchJob(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    Path(job.folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        (hub.fetch if job.kind == "hub" else git.fetch)(job, events)
    except FetchFailure as failure:
        events.failed(failure)
    except OSError as error:
        traceback.print_exc()
        events.failed(os_failure(error))
    else:
        events.done()
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    # The registry starts this process as the leader of a group of its own.
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
