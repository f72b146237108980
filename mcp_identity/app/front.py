"""Where are the consent pages of a server that browsers reach over the network, or on this machine's own port?"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mcp_identity.domain.consent import Binding

if TYPE_CHECKING:
    from mcp_identity.settings import Settings


class PublicFront:
    """The pages of the HTTP server itself: they answer for as long as it does."""

    def __init__(self, public_url: str, *, scheme: str = "http", port: int = 0, binding: Binding = Binding.LOGIN) -> None:
        """Know where the pages are.

        Args:
            public_url: Scheme, host and port; empty for a loopback address and `port`.
            scheme: What is spoken on that port.
            port: The port of this machine.
            binding: How browsers prove themselves.
        """
        self.binding = binding
        self._public_url = public_url
        self._scheme = scheme
        self._port = port

    @property
    def is_loopback(self) -> bool:
        """Whether the pages are on this machine alone."""
        from mcp_identity.oauth.urls import is_loopback_host

        return not self._public_url or is_loopback_host(urlsplit(self._public_url).hostname or "")

    async def ensure_open(self) -> None:
        """The pages are served with everything else."""

    def base_url(self, loopback_host: str) -> str:
        """The origin of the pages; a vendor's wish for a name of the loopback address counts only where there is no other."""
        return self._public_url or f"{self._scheme}://{loopback_host}:{self._port}"


def configured_front(settings: Settings) -> PublicFront | None:
    """The front of the server that these settings are for; None for the pages of a single user."""
    return PublicFront(settings.public_url) if settings.public_url else None
