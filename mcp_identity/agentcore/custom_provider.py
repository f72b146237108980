"""What does the block of a custom OAuth2 provider mean here?

It becomes settings of the catalog's ``custom``, and is made of them again to be shown. What needs a cloud around the server (a
key that signs in its key management, an identity of its machines, private endpoints and authorities in its network) is refused,
each with what is instead.
"""

from __future__ import annotations

from typing import Final, Literal

from mcp_identity.agentcore.errors import Fields
from mcp_identity.agentcore.shapes_providers import (
    ClientAuthenticationMethod,
    ConfigOutput,
    CustomConfig,
    Discovery,
    ExchangeAuthentication,
    OnBehalfOf,
    PrivateKeyJwt,
    ServerMetadata,
    SigningAlgorithm,
    TokenExchange,
)
from mcp_identity.domain.provider import ClientAuthentication, CredentialProvider

_METHODS: Final[dict[ClientAuthenticationMethod, ClientAuthentication]] = {
    "CLIENT_SECRET_BASIC": ClientAuthentication.BASIC,
    "CLIENT_SECRET_POST": ClientAuthentication.POST,
    "PRIVATE_KEY_JWT": ClientAuthentication.PRIVATE_KEY_JWT,
}
_TOLD: Final[dict[ClientAuthentication, ClientAuthenticationMethod]] = {ours: theirs for theirs, ours in _METHODS.items()}
_LEGACY: Final = {"client_secret_basic": ClientAuthentication.BASIC, "client_secret_post": ClientAuthentication.POST}
_GRANTS: Final[dict[str, Literal["TOKEN_EXCHANGE", "JWT_AUTHORIZATION_GRANT"]]] = {
    "token-exchange": "TOKEN_EXCHANGE",
    "jwt-bearer": "JWT_AUTHORIZATION_GRANT",
}
_ALGORITHMS: Final[dict[str, SigningAlgorithm]] = {"RS256": "RS256", "PS256": "PS256", "ES256": "ES256"}
_UNSAID: Final = {
    "discovery_url": "",
    "issuer": "",
    "authorization_url": "",
    "token_url": "",
    "on_behalf_of": "no",
    "actor_token": "none",
    "actor_scopes": "",
    "on_behalf_of_client": "yes",
    "assertion_audience": "",
    "assertion_algorithm": "",
    "assertion_key_id": "",
}
"""The settings that a block decides, as they are where it says nothing of them."""
_BESIDE: Final = {"revocation_url": "", "jwks_url": ""}
"""Further places of an authorization server, which no block can name."""
_PRIVATE: Final = {
    "private_endpoint": "privateEndpoint",
    "private_endpoint_overrides": "privateEndpointOverrides",
    "certificate_configurations": "certificateConfigurations",
}
_CLOUD_IDENTITY = "AWS_IAM_ID_TOKEN_JWT"
_METHOD, _KEY, _EXCHANGE = "clientAuthenticationMethod", "privateKeyJwtConfig", "onBehalfOfTokenExchangeConfig"


def custom_settings(prefix: str, block: CustomConfig) -> dict[str, str]:
    """The settings that a block means: each that a block can decide.

    Args:
        prefix: Where the block is in the request.
        block: The block.

    Raises:
        Fields: If it contradicts itself, or needs what this server has not.
    """
    for member, name in _PRIVATE.items():
        if getattr(block, member) is not None:
            raise Fields(
                (f"{prefix}.{name}", "is not served: this server reaches endpoints by its own network and trust store")
            )
    return {
        **_UNSAID,
        **_discovery(block.oauth_discovery),
        **_exchange(f"{prefix}.{_EXCHANGE}", block.on_behalf_of_token_exchange_config),
        **_assertions(f"{prefix}.{_KEY}", block.private_key_jwt_config),
    }


def forgotten_settings(before: CredentialProvider, block: CustomConfig) -> dict[str, str]:
    """The settings that go with the authorization server before, where a block names another one.

    What was said of that one's further places stays with it: else it would be sent the tokens of the new one, and our secret
    there, to be revoked; and its keys would vouch for the new one's users.
    """
    given, server = block.oauth_discovery, before.server
    metadata = given.authorization_server_metadata
    if metadata is None:
        stays = given.discovery_url == before.settings.get("discovery_url")
    else:
        named = metadata.issuer, metadata.authorization_endpoint, metadata.token_endpoint
        stays = named == (server.issuer or metadata.issuer, server.authorization_url, server.token_url)
    return {} if stays else dict(_BESIDE)


def custom_authentication(prefix: str, block: CustomConfig) -> str | None:
    """How the client authenticates, or None where nobody says.

    Raises:
        Fields: If it is said twice, or is a way that only a cloud has.
    """
    metadata = block.oauth_discovery.authorization_server_metadata
    legacy = metadata.token_endpoint_auth_methods if metadata else None
    method = block.client_authentication_method
    if block.private_key_jwt_config is not None:
        if method not in (None, "PRIVATE_KEY_JWT"):
            raise Fields((f"{prefix}.{_KEY}", f"is given only where {_METHOD} is PRIVATE_KEY_JWT"))
        method = "PRIVATE_KEY_JWT"
    if method is None:
        return _LEGACY[legacy[0]].value if legacy else None
    if legacy:
        raise Fields((f"{prefix}.{_METHOD}", "is said by tokenEndpointAuthMethods, too; give one of them"))
    if method not in _METHODS:
        raise Fields((f"{prefix}.{_METHOD}", "this server has no identity of a cloud; it authenticates by a secret or a key"))
    return _METHODS[method].value


def custom_output(provider: CredentialProvider) -> ConfigOutput:
    """The block of a provider, as far as it may be shown."""
    return ConfigOutput(
        oauth_discovery=discovery_of(provider),
        client_id=provider.client_id or None,
        client_authentication_method=_TOLD.get(provider.client_authentication),
        on_behalf_of_token_exchange_config=_told_exchange(provider.settings),
        private_key_jwt_config=_told_assertions(provider),
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


def _discovery(given: Discovery) -> dict[str, str]:
    if given.discovery_url is not None:
        return {"discovery_url": given.discovery_url}
    metadata = given.authorization_server_metadata
    if metadata is None:
        raise RuntimeError("exactly one of them was checked")
    return {
        "issuer": metadata.issuer,
        "authorization_url": metadata.authorization_endpoint,
        "token_url": metadata.token_endpoint,
    }


def _exchange(prefix: str, given: OnBehalfOf | None) -> dict[str, str]:
    """How a user's token is exchanged.

    Raises:
        Fields: If it contradicts itself, or the actor would be an identity of a cloud.
    """
    if given is None:
        return {}
    settings = {"on_behalf_of": "token-exchange" if given.grant_type == "TOKEN_EXCHANGE" else "jwt-bearer"}
    actor = given.token_exchange_grant_type_config
    if actor is not None:
        where = f"{prefix}.tokenExchangeGrantTypeConfig"
        if given.grant_type != "TOKEN_EXCHANGE":
            raise Fields((where, "is given only where grantType is TOKEN_EXCHANGE"))
        if actor.actor_token_content == _CLOUD_IDENTITY:
            raise Fields((f"{where}.actorTokenContent", "this server has no identity of a cloud; M2M names the client itself"))
        if actor.actor_token_content == "M2M":  # noqa: S105 - where it comes from
            settings |= {"actor_token": "m2m", "actor_scopes": " ".join(actor.actor_token_scopes or ())}
        elif actor.actor_token_scopes:
            raise Fields((f"{where}.actorTokenScopes", "is given only where actorTokenContent is M2M"))
    if given.on_behalf_of_authentication_config is not None:
        settings["on_behalf_of_client"] = "no"
    return settings


def _assertions(prefix: str, given: PrivateKeyJwt | None) -> dict[str, str]:
    """How a client signs who it is.

    Raises:
        Fields: If the key is in a cloud, or anything but its name and the audience shall stand in an assertion.
    """
    if given is None:
        return {}
    if given.private_key_source is not None:
        raise Fields(
            (
                f"{prefix}.privateKeySource",
                "no key management signs here: give the private key in PEM as clientSecret, or name it with clientSecretConfig",
            )
        )
    header, payload = given.additional_header_claims or {}, given.additional_payload_claims or {}
    if header.keys() - {"kid"}:
        raise Fields((f"{prefix}.additionalHeaderClaims", "nothing but kid can be set"))
    if payload.keys() - {"aud"}:
        raise Fields((f"{prefix}.additionalPayloadClaims", "nothing but aud can be set"))
    return {
        "assertion_algorithm": given.signing_algorithm or "",
        "assertion_key_id": header.get("kid", ""),
        "assertion_audience": payload.get("aud", ""),
    }


def _told_exchange(settings: dict[str, str]) -> OnBehalfOf | None:
    grant = _GRANTS.get(settings.get("on_behalf_of", ""))
    if grant is None:
        return None
    is_m2m = settings.get("actor_token") == "m2m"
    scopes = settings.get("actor_scopes", "").split()
    return OnBehalfOf(
        grant_type=grant,
        token_exchange_grant_type_config=TokenExchange(
            actor_token_content="M2M" if is_m2m else "NONE", actor_token_scopes=scopes if is_m2m and scopes else None
        )
        if grant == "TOKEN_EXCHANGE"
        else None,
        on_behalf_of_authentication_config=ExchangeAuthentication(client_authentication_method="NO_CLIENT")
        if settings.get("on_behalf_of_client") == "no"
        else None,
    )


def _told_assertions(provider: CredentialProvider) -> PrivateKeyJwt | None:
    if provider.client_authentication is not ClientAuthentication.PRIVATE_KEY_JWT:
        return None
    settings = provider.settings
    key_id, audience = settings.get("assertion_key_id"), settings.get("assertion_audience")
    return PrivateKeyJwt(
        signing_algorithm=_ALGORITHMS.get(settings.get("assertion_algorithm", "")),
        additional_header_claims={"kid": key_id} if key_id else None,
        additional_payload_claims={"aud": audience} if audience else None,
    )


def _origin(url: str) -> str:
    """What stands for an issuer where a vendor has none: scheme and host."""
    return "/".join(url.split("/", 3)[:3])
