"""
Runs nginx in front of a Teller, with the limits that `docs/security.md` asks a proxy for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from typing import TYPE_CHECKING

from bench import processes, system

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Time for nginx to listen, in seconds.
START_SECONDS = 10
_CONFIGURATION = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_header_timeout 10s;
    client_body_timeout 10s;
    client_max_body_size 2m;
    upstream teller {{ server {host}; keepalive 64; keepalive_timeout 5s; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://teller;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_read_timeout 60s;
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, host: str) -> Iterator[str]:
    """Run nginx in front of the Teller at `host`, with its files in `folder`. Yields the address of nginx."""
    port = system.free_port()
    folder.mkdir()
    folder.chmod(0o777)  # as root, its worker runs as another account
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, host=host, port=port))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "nginx is not installed"
    with processes.running([program, "-e", folder / "error.log", "-c", configuration], {}, folder / "log"):
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
