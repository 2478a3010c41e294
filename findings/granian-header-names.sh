#!/usr/bin/env bash
# granian: a WSGI application gets neither the names of headers nor the path of a request as they were sent.
#
# Version:
# granian 2.8.7, Python 3.11.
#
# Behaviour:
# PEP 3333 and its README promise the usual keys of the environment, and there is no key with the original. Two headers
# of one name are joined by a comma without a space. `X_Key` and `X-Key` have one key, and the later one wins. A second
# Content-Type is dropped, and `%2F` in a path is a slash.
#
# Output:
#     X-Key twice = HTTP_X_KEY 'a,b'
#     X_Key before X-Key = HTTP_X_KEY 'hyphen'
#     X-Key before X_Key = HTTP_X_KEY 'underscore'
#     Content-Type twice = CONTENT_TYPE 'text/a'
#     GET /a%2Fb = PATH_INFO '/a/b'
#
# Consequence:
# `api/web/headers.py` finds two values by a comma without a space, and does not see an underscore in place of a hyphen.
# `api/web/idempotency.py` refuses such a comma in a bare key that looks like two usual keys.
#
# Tried:
# 2.8.7 is the newest release. Its `src/wsgi/http.rs` moves the parsed headers into the environment and drops them, so
# neither `wsgi.input` nor the protocol object leads to them, and no option keeps them. Its RSGI interface has
# `scope.headers.get_all`, but calls a coroutine in an event loop for each request, and not the application in a thread.
set -euo pipefail

folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    granian==2.8.7 >"$folder/pip.log" 2>&1 || { cat "$folder/pip.log"; exit 1; }
cat >"$folder/application.py" <<'PYTHON'
KEYS = ("HTTP_X_KEY", "CONTENT_TYPE", "PATH_INFO")


def app(environ, start):
    body = "\n".join(f"{key} {environ[key]!r}" for key in KEYS if key in environ).encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]
PYTHON
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
(cd "$folder" && exec venv/bin/python -m granian --interface wsgi --port "$port" application:app) >"$folder/log" 2>&1 &
server=$!

python3 - "$port" <<'PYTHON'
import socket
import sys
import time

CASES = [
    ("X-Key twice", "/", "X-Key: a\r\nX-Key: b\r\n", "HTTP_X_KEY 'a,b'"),
    ("X_Key before X-Key", "/", "X_Key: underscore\r\nX-Key: hyphen\r\n", "HTTP_X_KEY 'hyphen'"),
    ("X-Key before X_Key", "/", "X-Key: hyphen\r\nX_Key: underscore\r\n", "HTTP_X_KEY 'underscore'"),
    ("Content-Type twice", "/", "Content-Type: text/a\r\nContent-Type: text/b\r\n", "CONTENT_TYPE 'text/a'"),
    ("GET /a%2Fb", "/a%2Fb", "", "PATH_INFO '/a/b'"),
]


def connect() -> socket.socket:
    for _ in range(300):
        try:
            return socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.1)
    sys.exit("granian does not listen")


for name, path, headers, expected in CASES:
    with connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
    [found] = [line for line in answer.splitlines() if line.split(" ")[0] == expected.split(" ")[0]]
    print(f"{name} = {found}")
    if found != expected:
        sys.exit(f"changed: {expected} was expected")
PYTHON
