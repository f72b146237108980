"""An agent backend that serves many users over SSE: `python examples/agent_over_sse.py`."""

from __future__ import annotations

from agent_backend import run

if __name__ == "__main__":
    run("sse")
