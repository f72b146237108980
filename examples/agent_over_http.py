"""An agent backend that serves many users over Streamable HTTP: `python examples/agent_over_http.py`."""

from __future__ import annotations

from agent_backend import run

if __name__ == "__main__":
    run("http")
