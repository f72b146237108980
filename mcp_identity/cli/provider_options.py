"""What does an operator say of a provider? The options of `providers add` and `update`, and the specification they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.cli.secret_input import SecretSource
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.provider import ClientAuthentication, ProviderKind, Release

API_KEY_VENDOR, CUSTOM_VENDOR = "api-key", "custom"

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What agents call it, e.g. github-work.")]
VendorOption = Annotated[str | None, typer.Option("--vendor", metavar="VENDOR", help="A name of `catalog list`.")]
KindOption = Annotated[
    ProviderKind | None, typer.Option("--kind", help="api-key for a static key; else the vendor's own kind.")
]
ClientIdOption = Annotated[
    str | None, typer.Option("--client-id", metavar="ID", help="Our client id at the vendor, as it shows it.")
]
ClientAuthOption = Annotated[
    ClientAuthentication | None,
    typer.Option(
        "--client-auth",
        help="How we authenticate there; none for a public client without a secret, private_key_jwt for one that signs: "
        "its secret is the key, in PEM.",
    ),
]
ClientSecretEnvOption = Annotated[
    str | None, typer.Option("--client-secret-env", metavar="VAR", help="The environment variable with the client secret.")
]
ClientSecretFileOption = Annotated[
    Path | None, typer.Option("--client-secret-file", metavar="PATH", help="The file with the client secret.")
]
ClientSecretStdinOption = Annotated[
    bool, typer.Option("--client-secret-stdin", help="Read the client secret from standard input.")
]
ApiKeyEnvOption = Annotated[
    str | None, typer.Option("--api-key-env", metavar="VAR", help="The environment variable with the API key.")
]
ApiKeyFileOption = Annotated[Path | None, typer.Option("--api-key-file", metavar="PATH", help="The file with the API key.")]
ApiKeyStdinOption = Annotated[bool, typer.Option("--api-key-stdin", help="Read the API key from standard input.")]
IssuerOption = Annotated[
    str | None, typer.Option("--issuer", metavar="URL", help="The issuer; its metadata gives the endpoints.")
]
AuthorizationUrlOption = Annotated[
    str | None, typer.Option("--authorization-url", metavar="URL", help="The authorization endpoint.")
]
TokenUrlOption = Annotated[str | None, typer.Option("--token-url", metavar="URL", help="The token endpoint.")]
RevocationUrlOption = Annotated[str | None, typer.Option("--revocation-url", metavar="URL", help="The revocation endpoint.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A setting of the vendor: see `catalog show`.")
]
DefaultScopesOption = Annotated[
    str | None, typer.Option("--scopes", metavar='"A B"', help="What is asked for when a call names no scopes.")
]
ReleaseOption = Annotated[
    Release | None,
    typer.Option("--release", help="How its secrets may leave: as the value, as a one-time handle, or never."),
]
ApiHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--api-host",
        metavar="https://HOST[:PORT]",
        help="Where call_api may send its credential, exactly; instead of the vendor's own hosts. Repeat for several.",
    ),
]
SubjectIssuerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--subject-issuer",
        metavar="ISSUER",
        help="A name of `issuers list` whose users' own tokens may be sent to it, to be exchanged on their behalf; '' for "
        "none. Repeat for several.",
    ),
]
KeyHeaderOption = Annotated[
    str | None,
    typer.Option("--api-key-header", metavar="NAME", help="call_api sends the API key in this header, by itself."),
]
KeyPrefixOption = Annotated[
    str | None, typer.Option("--api-key-prefix", metavar="WORD", help="What stands before the key in the header, e.g. Bearer.")
]
KeyQueryOption = Annotated[
    str | None, typer.Option("--api-key-query", metavar="NAME", help="call_api sends the API key in this query parameter.")
]
KeyBasicOption = Annotated[
    str | None,
    typer.Option(
        "--api-key-basic",
        metavar="USERNAME",
        help="call_api sends the API key as the password of this user name; with '' the key is the user name.",
    ),
]
HttpLoopbackOption = Annotated[
    bool | None,
    typer.Option("--allow-http-loopback/--no-allow-http-loopback", help="Accept http endpoints on this machine; for tests."),
]


def client_secret_source(variable: str | None, path: Path | None, stdin: bool) -> SecretSource:
    """Where the client secret is."""
    return SecretSource("--client-secret", variable, path, stdin)


def api_key_source(variable: str | None, path: Path | None, stdin: bool) -> SecretSource:
    """Where the API key is."""
    return SecretSource("--api-key", variable, path, stdin)


def read_secret_for(kind: ProviderKind, client_secret: SecretSource, api_key: SecretSource) -> Secret | None:
    """Read the secret that a provider of this kind takes; None where no option names one.

    Raises:
        InvalidRequest: If an option of the other kind was given.
    """
    wanted, other = (api_key, client_secret) if kind is ProviderKind.API_KEY else (client_secret, api_key)
    if other.is_given:
        raise InvalidRequest(f"a provider of the kind {kind.value} takes no {other.option}; it takes {wanted.option}-…")
    return wanted.read()


def settings_of_vendor(endpoints: dict[str, str | None], pairs: Sequence[str] | None) -> dict[str, str]:
    """Settings out of the endpoint options and the `--set FIELD=VALUE` pairs.

    Raises:
        InvalidRequest: If a pair is none, or a field was given twice.
    """
    found = {field: url for field, url in endpoints.items() if url is not None}
    for pair in pairs or ():
        field, separator, value = pair.partition("=")
        if not separator or not field:
            raise InvalidRequest("--set takes FIELD=VALUE")
        if field in found:
            raise InvalidRequest(f"the setting {field[:64]!r} was given twice")
        found[field] = value
    return found


def key_placement(
    settings: dict[str, str], header: str | None, prefix: str | None, query: str | None, basic: str | None
) -> dict[str, str]:
    """The settings, with where an API key goes.

    Raises:
        InvalidRequest: If several places are named, or a prefix without a header.
    """
    if (header is not None) + (query is not None) + (basic is not None) > 1:
        raise InvalidRequest("an API key goes into one place: --api-key-header, --api-key-query or --api-key-basic")
    if prefix is not None and (query is not None or basic is not None):
        raise InvalidRequest("--api-key-prefix belongs to a header")
    if query is not None:
        return {**settings, "placement": "query", "name": query}
    if basic is not None:
        return {**settings, "placement": "basic", "username": basic}
    if header is not None:
        return {**settings, "placement": "header", "name": header, "prefix": prefix or ""}
    return settings if prefix is None else {**settings, "prefix": prefix}


def choose_vendor(vendor: str | None, kind: ProviderKind | None, settings: dict[str, str]) -> str:
    """The vendor that is meant where none was named.

    Raises:
        InvalidRequest: If that is not clear.
    """
    if kind is ProviderKind.API_KEY:
        if vendor not in (None, API_KEY_VENDOR):
            raise InvalidRequest(f"a provider of the kind api-key has the vendor {API_KEY_VENDOR}; leave --vendor out")
        return API_KEY_VENDOR
    if vendor is None and not settings:
        raise InvalidRequest("name the vendor (--vendor, see: mcp-identity catalog list), or give --issuer, or --kind api-key")
    return vendor or CUSTOM_VENDOR


def make_spec(
    settings: dict[str, str],
    secret: Secret | None,
    *,
    vendor: str | None = None,
    client_id: str | None,
    client_auth: ClientAuthentication | None,
    scopes: str | None,
    release: str | None,
    api_hosts: Sequence[str] | None = None,
    subject_issuers: Sequence[str] | None = None,
    allow_http_loopback: bool | None,
    disabled: bool | None = None,
) -> ProviderSpec:
    """Put the specification together."""
    return ProviderSpec(
        vendor=vendor,
        settings=settings,
        client_id=client_id,
        client_authentication=client_auth.value if client_auth else None,
        secret=secret,
        scopes=None if scopes is None else tuple(scopes.split()),
        release=release,
        api_hosts=None if api_hosts is None else tuple(api_hosts),
        subject_issuers=None if subject_issuers is None else tuple(name for name in subject_issuers if name),
        allow_http_loopback=allow_http_loopback,
        disabled=disabled,
    )
