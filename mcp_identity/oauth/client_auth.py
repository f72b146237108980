"""How do we prove who we are at an authorization server's endpoints (RFC 6749 §2.3)?

One method per request, the configured one. Builds nothing but parameters and headers. Trusts the vault for the client's
secret and reveals it here, for the wire.
"""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote_plus

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import ProviderMisconfigured
from mcp_identity.domain.provider import ClientAuthentication, OAuthClient


def authenticate(
    client: OAuthClient, parameters: list[tuple[str, str]], headers: dict[str, str]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Add the client's authentication to a request's form parameters and headers.

    Args:
        client: Who we are at this server.
        parameters: The form so far; not changed.
        headers: The headers so far; not changed.

    Returns:
        The parameters and headers to send.

    Raises:
        ProviderMisconfigured: If the method needs a secret and there is none.
    """
    match client.authentication:
        case ClientAuthentication.BASIC:
            return list(parameters), {**headers, "Authorization": basic(client)}
        case ClientAuthentication.POST:
            secret = _secret(client).reveal()
            return [*parameters, ("client_id", client.client_id), ("client_secret", secret)], dict(headers)
        case ClientAuthentication.NONE:
            return [*parameters, ("client_id", client.client_id)], dict(headers)


def basic(client: OAuthClient) -> str:
    """The value of an ``Authorization: Basic`` header.

    Id and secret are form-encoded first (RFC 6749 §2.3.1), so that a colon, a percent sign, a plus or a letter beyond
    Latin-1 arrives as it was issued.
    """
    pair = f"{quote_plus(client.client_id)}:{quote_plus(_secret(client).reveal())}"
    return "Basic " + b64encode(pair.encode("ascii")).decode("ascii")


def _secret(client: OAuthClient) -> Secret:
    if client.secret is None:
        raise ProviderMisconfigured("the provider's client authentication needs a client secret, and none is stored")
    return client.secret
