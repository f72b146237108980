"""What stands around an agent, so that it acts for its users and for nobody else? A company's application, and a runtime.

Agents that are written for Amazon Bedrock AgentCore expect a runtime: something that checks whose request it is, gets a
workload access token for that user, and passes it on in the headers that the stock SDK reads. The agent itself
(`agent.py`) is written with that SDK and knows nothing of us. Around it:

- `user_tokens.py` says who a bearer speaks for, before any agent code runs,
- `identity.py` is the two calls that a runtime and an application make to mcp-identity, by stock boto3,
- `runtime.py` is the runtime,
- `application.py` is the company's application: the user signs in, asks, sees the link to the consent, and comes back; it
  alone can say whose browser that was, and so it alone completes the consent,
- `pages.py` is what a person sees.

`python examples/twenty_steps.py` runs all of it on this machine. It is an example: its sessions live in memory, and one
process has both the application and the runtime.
"""

from __future__ import annotations

from .application import Application
from .identity import Identity, IdentityRefused
from .runtime import Runtime
from .user_tokens import Company, InvalidToken, User, UserTokens

__all__ = ["Application", "Company", "Identity", "IdentityRefused", "InvalidToken", "Runtime", "User", "UserTokens"]
