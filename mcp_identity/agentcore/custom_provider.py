"""What does the block of a custom OAuth2 provider mean here?

It becomes settings of the catalog's ``custom``, and back. What needs a cloud around the server (a key that signs in its key
management, an identity of its machines, private endpoints and authorities in its network) is refused, each with what is
instead.
"""

from __future__ import annotations

from typing import Final

from mcp_identity.agentcore.errors import Fields
from mcp_identity.agentcore.shapes_providers import (
    ClientAuthenticationMethod,
    ConfigOutput,
    CustomConfig,
    Discovery,
    PrivateKeyJwt,
    ServerMetadata,
)
from mcp_identity.domain.provider import ClientAuthentication, CredentialProvider

_METHODS: Final[dict[ClientAuthenticationMethod, str]] = {
    "CLIENT_SECRET_BASIC": ClientAuthentication.BASIC.value,
    "CLIENT_SECRET_POST": ClientAuthentication.POST.value,
    "PRIVATE_KEY_JWT": "private_key_jwt",
}
_TOLD: Final[dict[str, ClientAuthenticationMethod]] = {ours: theirs for theirs, ours in _METHODS.items()}
_LEGACY: Final = {
    "client_secret_basic": ClientAuthentication.BASIC.value,
    "client_secret_post": ClientAuthentication.POST.value,
}
_ENDPOINTS: Final[tuple[str, ...]] = ("discovery_url", "issuer", "authorization_url", "token_url")
"""The settings that a discovery fills; those that it does not name are empty."""
_PRIVATE: Final = {
    "private_endpoint": "privateEndpoint",
    "private_endpoint_overrides": "privateEndpointOverrides",
    "certificate_configurations": "certificateConfigurations",
}
_METHOD = "clientAuthenticationMethod"


def custom_settings(prefix: str, block: CustomConfig) -> dict[str, str]:
    """The settings that a block means.

    Args:
        prefix: Where the block is in the request.
        block: The block.

    Raises:
        Fields: If it needs what this server has not.
    """
    for member, name in _PRIVATE.items():
        if getattr(block, member) is not None:
            raise Fields(
                (f"{prefix}.{name}", "is not served: this server reaches an endpoint by its own network and trust store")
            )
    settings: dict[str, str] = dict.fromkeys(_ENDPOINTS, "")
    discovery = block.oauth_discovery
    if discovery.discovery_url is not None:
        settings["discovery_url"] = discovery.discovery_url
    elif discovery.authorization_server_metadata is not None:
        metadata = discovery.authorization_server_metadata
        settings |= {
            "issuer": metadata.issuer,
            "authorization_url": metadata.authorization_endpoint,
            "token_url": metadata.token_endpoint,
        }
    return settings


def custom_authentication(prefix: str, block: CustomConfig) -> str | None:
    """How the client authenticates, or None where nobody says.

    Raises:
        Fields: If it is said twice, or is a way that only a cloud has.
    """
    metadata = block.oauth_discovery.authorization_server_metadata
    legacy = metadata.token_endpoint_auth_methods if metadata else None
    method = block.client_authentication_method
    if method is None:
        return _LEGACY[legacy[0]] if legacy else None
    if legacy:
        raise Fields((f"{prefix}.{_METHOD}", "and tokenEndpointAuthMethods say the same; give one of them"))
    if method == "AWS_IAM_ID_TOKEN_JWT":
        raise Fields((f"{prefix}.{_METHOD}", "this server runs under no role of a cloud; it authenticates by secret or by key"))
    _check_key(f"{prefix}.privateKeyJwtConfig", block.private_key_jwt_config)
    return _METHODS[method]


def custom_output(provider: CredentialProvider) -> ConfigOutput:
    """The block of a provider, as far as it may be shown."""
    return ConfigOutput(
        oauth_discovery=discovery_of(provider),
        client_id=provider.client_id or None,
        client_authentication_method=_TOLD.get(provider.client_authentication.value),
    )


def discovery_of(provider: CredentialProvider) -> Discovery:
    """How a provider's authorization server is found: as it was said, else where it is."""
    if url := provider.settings.get("discovery_url"):
        return Discovery(discovery_url=url)
    server = provider.server
    return Discovery(
        authorization_server_metadata=ServerMetadata(
            issuer=server.issuer or _origin(server.authorization_url or server.token_url),
            authorization_endpoint=server.authorization_url,
            token_endpoint=server.token_url,
            response_types=["code"],
        )
    )


def _check_key(prefix: str, config: PrivateKeyJwt | None) -> None:
    if config is None:
        return
    if config.private_key_source is not None:
        raise Fields(
            (
                f"{prefix}.privateKeySource",
                "no key management signs here: give the private key in PEM as clientSecret, or name it with clientSecretConfig",
            )
        )


def _origin(url: str) -> str:
    """What stands for an issuer where a vendor has none: scheme and host."""
    return "/".join(url.split("/", 3)[:3])
