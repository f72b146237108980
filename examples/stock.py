# pyright: basic
# boto3 makes its clients at run time and carries no types.
"""How do AWS's own clients come to us? By an access key of ours, our address, and a region that means nothing.

Nothing of AWS is asked, and no account there is needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from world import World

REGION = "us-east-1"
CONTROL, DATA = "bedrock-agentcore-control", "bedrock-agentcore"


@dataclass(frozen=True)
class AccessKey:
    """An access key, and where it is good.

    Attributes:
        endpoint: Our server.
        id: What stands in the requests.
        secret: What they are signed with.
    """

    endpoint: str
    id: str
    secret: str = field(repr=False)

    @classmethod
    def create(cls, world: World, endpoint: str, *options: str) -> AccessKey:
        """Make one, as an operator does: `--role admin`, or `--role workload --workload NAME`."""
        made = json.loads(world.cli("access-keys", "create", *options, "--json"))
        return cls(endpoint, made["access_key_id"], made["secret_access_key"])

    def client(self, service: str) -> Any:
        """A boto3 client that is told nothing but where we are."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.id,
            aws_secret_access_key=self.secret,
        )

    def environment(self, world: World) -> dict[str, str]:
        """What a program that uses the `bedrock-agentcore` SDK needs; it knows of us by nothing else."""
        kept = {name: value for name, value in world.environment.items() if not name.startswith("MCP_IDENTITY_")}
        return {
            **kept,
            "BEDROCK_AGENTCORE_CP_ENDPOINT": self.endpoint,
            "BEDROCK_AGENTCORE_DP_ENDPOINT": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }
