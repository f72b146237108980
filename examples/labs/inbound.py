# pyright: basic
# boto3 makes its clients at run time and carries no types.
"""Lab 1, inbound: the users of an Amazon Cognito user pool, and an agent that acts for them.

A Cognito access token has no audience, so the authorizer goes by the client that it was issued to.
"""

from __future__ import annotations

from cognito import UserPool
from lab import INBOUND, Lab, refused, say
from world import step

from mcp_identity.sdk import IdentityClient


def inbound(lab: Lab, pool: UserPool) -> None:
    """Go through it."""
    step(1, "Inbound: a user pool says who the users are", "mcp-identity issuers add, workloads update --allowed-client")
    agent = lab.data
    lab.world.cli("workloads", "update", INBOUND, "--issuer", "cognito", "--allowed-client", pool.client)
    token = pool.sign_in()
    answer = agent.get_workload_access_token_for_jwt(workloadName=INBOUND, userToken=token)
    say("a workload access token for the pool's user", answer["workloadAccessToken"][:8] + "…")
    with IdentityClient(lab.endpoint, token=token) as client:
        who = client.call_tool("whoami")
    say("over MCP the same token is", f"{who['user_subject']} through {who['workload']}")

    def ask(user_token: str) -> str:
        return refused(lambda: agent.get_workload_access_token_for_jwt(workloadName=INBOUND, userToken=user_token))

    say("a token of another application", ask(pool.sign_in(pool.another_client)))
    head, claims, signature = token.split(".")
    say("a token with another signature", ask(f"{head}.{claims}.{signature[::-1]}"))
