"""What may be said of a credential provider, and what is shown of one?

Nine blocks for 25 vendors; which block a vendor takes stands in the vendor's own file. What this server cannot do (private
endpoints, private authorities) is read as far as it takes to say so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mcp_identity.agentcore.answers import Moment
from mcp_identity.agentcore.shapes import (
    KeyArn,
    LongPage,
    OneOf,
    ProviderName,
    Scope,
    SecretArn,
    SecretReference,
    SecretSource,
    Shape,
    ShortPage,
    Tags,
    sensitive,
    text,
)
from mcp_identity.domain.credentials import Secret

ClientSecret = Annotated[Secret, sensitive(2048)]
ClientId = Annotated[str, text(1, 256)]
ClientAuthenticationMethod = Literal["CLIENT_SECRET_BASIC", "CLIENT_SECRET_POST", "AWS_IAM_ID_TOKEN_JWT", "PRIVATE_KEY_JWT"]
SigningAlgorithm = Literal["RS256", "PS256", "ES256"]
EndpointAuthentication = Annotated[str, text(pattern="client_secret_post|client_secret_basic")]
DiscoveryUrl = Annotated[
    str, text(pattern=r"[^\s?#]+/\.well-known/(?:openid-configuration|oauth-authorization-server)(?:/[^\s?#]+)?")
]
_ClaimName = Annotated[str, text(1, 255, "[A-Za-z0-9_.:#-]+")]
Claims = Annotated[dict[_ClaimName, Annotated[str, text(1, 2048)]], Field(min_length=1, max_length=10)]


class ServerMetadata(Shape):
    """An authorization server (RFC 8414 §2)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    response_types: list[str] | None = None
    token_endpoint_auth_methods: Annotated[list[EndpointAuthentication], Field(min_length=1, max_length=2)] | None = None


class Discovery(OneOf):
    """How an authorization server is found."""

    discovery_url: DiscoveryUrl | None = None
    authorization_server_metadata: ServerMetadata | None = None


class TokenExchange(Shape):
    """What an exchange of RFC 8693 carries beside the user's token."""

    actor_token_content: Literal["NONE", "M2M", "AWS_IAM_ID_TOKEN_JWT"]
    actor_token_scopes: list[Scope] | None = None


class ExchangeAuthentication(Shape):
    """How the client authenticates in the exchange, where not as everywhere else."""

    client_authentication_method: Literal["NO_CLIENT"]


class OnBehalfOf(Shape):
    """How a user's token becomes one for the resource."""

    grant_type: Literal["TOKEN_EXCHANGE", "JWT_AUTHORIZATION_GRANT"]
    token_exchange_grant_type_config: TokenExchange | None = None
    on_behalf_of_authentication_config: ExchangeAuthentication | None = None


class KmsKey(Shape):
    """A key that signs in a key management service."""

    kms_key_arn: KeyArn


class PrivateKey(OneOf):
    """Where the key that signs is."""

    kms_key_source: KmsKey | None = None


class PrivateKeyJwt(Shape):
    """How a client proves itself by a signature (RFC 7523 §2.2)."""

    private_key_source: PrivateKey | None = None
    signing_algorithm: SigningAlgorithm | None = None
    additional_header_claims: Claims | None = None
    additional_payload_claims: Claims | None = None


class ClientConfig(Shape):
    """Our client at a vendor."""

    client_id: ClientId
    client_secret: ClientSecret | None = None
    client_secret_config: SecretReference | None = None
    client_secret_source: SecretSource | None = None


class MicrosoftConfig(ClientConfig):
    """Microsoft's, with the directory."""

    tenant_id: Annotated[str, text(1, 2048)] | None = None


class IncludedConfig(ClientConfig):
    """A vendor's, perhaps with the addresses of the customer's own tenant there."""

    issuer: str | None = None
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None


class CustomConfig(ClientConfig):
    """Any authorization server's."""

    oauth_discovery: Discovery
    client_id: Annotated[str, text(0, 256)] = ""
    client_authentication_method: ClientAuthenticationMethod | None = None
    on_behalf_of_token_exchange_config: OnBehalfOf | None = None
    private_key_jwt_config: PrivateKeyJwt | None = None
    private_endpoint: dict[str, Any] | None = None
    private_endpoint_overrides: Annotated[list[dict[str, Any]], Field(max_length=5)] | None = None
    certificate_configurations: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1)] | None = None


class ConfigInput(OneOf):
    """The block of a vendor."""

    custom_oauth2_provider_config: CustomConfig | None = None
    google_oauth2_provider_config: ClientConfig | None = None
    github_oauth2_provider_config: ClientConfig | None = None
    slack_oauth2_provider_config: ClientConfig | None = None
    salesforce_oauth2_provider_config: ClientConfig | None = None
    microsoft_oauth2_provider_config: MicrosoftConfig | None = None
    atlassian_oauth2_provider_config: ClientConfig | None = None
    linkedin_oauth2_provider_config: ClientConfig | None = None
    included_oauth2_provider_config: IncludedConfig | None = None

    def given(self) -> tuple[str, ClientConfig]:
        """The block's name on the wire, and the block itself."""
        blocks: list[tuple[str, ClientConfig | None]] = [
            (str(field.alias), getattr(self, name)) for name, field in type(self).model_fields.items()
        ]
        return next((name, block) for name, block in blocks if block is not None)


class OAuthProviderUpdate(Shape):
    """What an OAuth2 credential provider shall be."""

    name: ProviderName
    credential_provider_vendor: str
    oauth2_provider_config_input: ConfigInput


class OAuthProviderCreation(OAuthProviderUpdate):
    """A new OAuth2 credential provider."""

    tags: Tags | None = None


class ConfigOutput(Shape):
    """What is shown of a provider's configuration: never its secret."""

    oauth_discovery: Discovery
    client_id: str | None = None
    client_authentication_method: ClientAuthenticationMethod | None = None
    on_behalf_of_token_exchange_config: OnBehalfOf | None = None
    private_key_jwt_config: PrivateKeyJwt | None = None


class OAuthProviderCreated(Shape):
    """An OAuth2 credential provider that was just made."""

    name: str
    credential_provider_arn: str
    client_secret_arn: SecretArn
    client_secret_json_key: str | None = None
    client_secret_source: SecretSource
    callback_url: str
    oauth2_provider_config_output: dict[str, ConfigOutput]
    status: Literal["READY"] = "READY"


class OAuthProviderShown(OAuthProviderCreated):
    """An OAuth2 credential provider as it stands."""

    credential_provider_vendor: str
    created_time: Moment
    last_updated_time: Moment


class OAuthProviderItem(Shape):
    """An OAuth2 credential provider in a listing."""

    name: str
    credential_provider_vendor: str
    credential_provider_arn: str
    created_time: Moment
    last_updated_time: Moment


class OAuthProviderPage(Shape):
    """One page of OAuth2 credential providers."""

    credential_providers: list[OAuthProviderItem]
    next_token: str | None = None


class NamedProvider(Shape):
    """A credential provider by its name."""

    name: ProviderName


class OAuthProviderListing(Shape):
    """Which page of the OAuth2 credential providers."""

    next_token: str | None = None
    max_results: ShortPage | None = None


class ApiKeyUpdate(Shape):
    """What an API key credential provider shall be."""

    name: ProviderName
    api_key: Annotated[Secret, sensitive(65_536)] | None = None
    api_key_secret_config: SecretReference | None = None
    api_key_secret_source: SecretSource | None = None


class ApiKeyCreation(ApiKeyUpdate):
    """A new API key credential provider."""

    tags: Tags | None = None


class ApiKeyCreated(Shape):
    """An API key credential provider that was just made."""

    name: str
    credential_provider_arn: str
    api_key_secret_arn: SecretArn
    api_key_secret_json_key: str | None = None
    api_key_secret_source: SecretSource


class ApiKeyShown(ApiKeyCreated):
    """An API key credential provider as it stands."""

    created_time: Moment
    last_updated_time: Moment


class ApiKeyItem(Shape):
    """An API key credential provider in a listing."""

    name: str
    credential_provider_arn: str
    created_time: Moment
    last_updated_time: Moment


class ApiKeyPage(Shape):
    """One page of API key credential providers."""

    credential_providers: list[ApiKeyItem]
    next_token: str | None = None


class ApiKeyListing(Shape):
    """Which page of the API key credential providers."""

    next_token: str | None = None
    max_results: LongPage | None = None
