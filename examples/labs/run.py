"""The labs: inbound with Cognito, outbound with a vendor that asks its users, three kinds of credential, and troubleshooting.

    python examples/labs/run.py

Everything is on this machine: our server, stock boto3, moto for Cognito, a real OAuth 2.0 server as the vendor, and an API
that takes a key. At the end everything is removed, and the vault is looked through for what is left.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cognito import user_pool
from inbound import inbound
from lab import close, opened
from outbound import outbound
from together import together
from troubleshooting import troubleshooting
from world import console, step


def main() -> None:
    """Go through all of them."""
    with tempfile.TemporaryDirectory(prefix="mcp-identity-labs-") as temporary:
        folder = Path(temporary)
        console.rule("the labs")
        with (
            user_pool(folder / "moto.log") as pool,
            opened(folder, before=lambda world: pool.trust(Path(world.environment["MCP_IDENTITY_HOME"]))) as lab,
        ):
            inbound(lab, pool)
            outbound(lab)
            together(lab)
            troubleshooting(lab)
            step(5, "Clean-up")
            close(lab)
        console.rule("done; nothing of it is kept")


if __name__ == "__main__":
    main()
