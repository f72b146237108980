"""How do the programs of this example serve? On a port of this machine that they name in one JSON line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from typing import Any

import uvicorn

HOST = "127.0.0.1"


def serve(app: Any, port: int = 0, **facts: str) -> None:
    """Serve until interrupted, or until standard input closes if asked to.

    Args:
        app: An ASGI application.
        port: Where; 0 takes a free one.
        facts: Paths to print as URLs, by name.
    """
    parser = argparse.ArgumentParser(description=f"Serves on {HOST}.")
    parser.add_argument("--port", type=int, default=port, help="0 takes a free one")
    parser.add_argument("--stop-when-input-ends", action="store_true", help="exit when standard input closes")
    options, _ = parser.parse_known_args()
    config = uvicorn.Config(app, HOST, options.port, log_level="error")
    socket = config.bind_socket()
    socket.listen()  # whoever reads the line below may come at once
    if options.stop_when_input_ends:
        threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    url = f"http://{HOST}:{socket.getsockname()[1]}"
    print(json.dumps({"url": url, **{name: f"{url}{path}" for name, path in facts.items()}}), flush=True)
    uvicorn.Server(config).run(sockets=[socket])
