"""One credential provider by its name, for code that needs no more than its token or key."""

from __future__ import annotations

import threading
from typing import Unpack

from mcp_identity.sdk.client import IdentityClient
from mcp_identity.sdk.driving import OnAuthUrl
from mcp_identity.sdk.tokens import TokenOptions

_lock = threading.Lock()
_default: list[IdentityClient] = []


def default_client() -> IdentityClient:
    """The client of this process, as the settings say where the server is; made when it is first needed."""
    with _lock:
        if not _default:
            _default.append(IdentityClient())
        return _default[0]


class CredentialProvider:
    """A credential provider of the server."""

    def __init__(self, name: str, *, client: IdentityClient | None = None, workload: str = "") -> None:
        """Name it; nothing is asked yet.

        Args:
            name: The provider's name.
            client: Who asks; None for the client that the settings describe.
            workload: The workload that this is for; the bearer must be its own.
        """
        self.name = name
        self._client = client
        self._workload = workload

    def __repr__(self) -> str:
        """Its name."""
        return f"CredentialProvider({self.name!r})"

    def get_access_token(
        self,
        *,
        on_auth_url: OnAuthUrl | None = None,
        wait_seconds: float | None = None,
        **options: Unpack[TokenOptions],
    ) -> str:
        """Get an access token; where the user has to agree first, they are shown a link and waited for.

        Raises:
            IdentityClientError: As `IdentityClient.get_token`, which has the arguments.
        """
        client = self._client or default_client()
        return client.get_token(
            self.name, on_auth_url=on_auth_url, wait_seconds=wait_seconds, workload=self._workload, **options
        ).access_token

    async def get_access_token_async(
        self,
        *,
        on_auth_url: OnAuthUrl | None = None,
        wait_seconds: float | None = None,
        **options: Unpack[TokenOptions],
    ) -> str:
        """As `get_access_token`."""
        client = self._client or default_client()
        found = await client.get_token_async(
            self.name, on_auth_url=on_auth_url, wait_seconds=wait_seconds, workload=self._workload, **options
        )
        return found.access_token

    def get_api_key(self) -> str:
        """Get the API key.

        Raises:
            IdentityClientError: If it cannot be had; the error says what to do.
        """
        return (self._client or default_client()).get_api_key(self.name, workload=self._workload)

    async def get_api_key_async(self) -> str:
        """As `get_api_key`."""
        return await (self._client or default_client()).get_api_key_async(self.name, workload=self._workload)
