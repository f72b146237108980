# pyright: basic
# boto3 makes its clients at run time and carries no types.
"""Which calls do a runtime and an application make to mcp-identity? Two, by stock boto3 with the workload's access key.

The key can act for the workload that it was made for and for no other, and it creates and reads no configuration. It proves
the runtime and the application, never a user: for whom a token is comes from the user's own JWT alone, in both calls.
"""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

REGION = "us-east-1"
"""Signatures need one; any will do."""


class IdentityRefused(Exception):
    """mcp-identity said no, or could not be asked.

    Attributes:
        code: The modelled error, such as `AccessDeniedException`; `Unreachable` where nobody answered.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Identity:
    """The identity service, as one workload's runtime and application use it.

    Args:
        endpoint: Where mcp-identity is.
        workload: The workload identity of the agent.
        access_key_id: Of `mcp-identity access-keys create --role workload --workload NAME`.
        secret_access_key: Likewise.
    """

    def __init__(self, endpoint: str, workload: str, *, access_key_id: str, secret_access_key: str) -> None:
        self._workload = workload
        self._client: Any = boto3.client(
            "bedrock-agentcore",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            config=Config(connect_timeout=5, read_timeout=30),
        )

    async def workload_token(self, user_token: str) -> str:
        """Get a workload access token for the agent and the user of a JWT.

        Raises:
            IdentityRefused: If that JWT does not speak for this workload.
        """
        get = self._client.get_workload_access_token_for_jwt
        answer = await _call(get, workloadName=self._workload, userToken=user_token)
        return answer["workloadAccessToken"]

    async def complete(self, session_uri: str, user_token: str) -> None:
        """Say that the browser which came back is the one of this JWT's user.

        Args:
            session_uri: As the browser brought it, in the parameter `session_id`.
            user_token: The JWT of whoever is signed in at that browser.

        Raises:
            IdentityRefused: If the consent is another user's, is too old, or does not exist.
        """
        user = {"userToken": user_token}
        await _call(self._client.complete_resource_token_auth, userIdentifier=user, sessionUri=session_uri)


async def _call(operation: Any, **arguments: Any) -> dict[str, Any]:
    """Call an operation; boto3 blocks, so on a thread."""
    try:
        return await anyio.to_thread.run_sync(lambda: operation(**arguments))
    except ClientError as error:
        found = error.response.get("Error", {})
        raise IdentityRefused(found.get("Code", "Unknown"), found.get("Message", "")) from None
    except BotoCoreError as error:
        raise IdentityRefused("Unreachable", type(error).__name__) from None
