"""
A Teller that holds its embedded servers until standard input ends; run by the tests as a process of its own.

    holder.py up|command [watcher]

Prints one line of JSON: where the servers are, and their process ids; or `error`.
"""

from __future__ import annotations

import json
import os
import sys

from processor.errors import TellerError
from processor.settings import Settings
from teller.embedded import child
from teller.embedded.servers import serve

if "watcher" in sys.argv:
    child.HAS_DEATH_SIGNAL = False
try:
    with serve(Settings.from_environment(os.environ), is_up=sys.argv[1] == "up") as servers:
        where = {**servers.settings.environment(), "pids": [server.pid for server in servers.started]}
        print(json.dumps(where), flush=True)  # noqa: T201 - that is what it is for
        sys.stdin.read()
except TellerError as error:
    print(json.dumps({"error": str(error)}), flush=True)  # noqa: T201
