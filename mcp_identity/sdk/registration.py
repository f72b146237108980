"""How do an agent, whose tokens speak for it, and its credentials get registered? By an operator's tools, in steps without I/O.

What is there is changed, what is not is made, and whatever these calls do not mention stays as it is. A secret is never sent:
it is named, and the server reads it where its operator said that such secrets are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from mcp_identity.domain.errors import clean_text
from mcp_identity.sdk.endpoint import Who
from mcp_identity.sdk.errors import IdentityClientError, error_of
from mcp_identity.sdk.steps import Ask, Steps, asked

_WELL_KNOWN = re.compile(r"/\.well-known/(?:openid-configuration|oauth-authorization-server)(?:/.*)?\Z")
_NO_NAME = re.compile(r"[^a-z0-9._-]+")
_PRESETS = (
    (r"cognito-idp\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?", "cognito"),
    (r"login\.microsoftonline\.(?:com|us)|sts\.windows\.net", "entra"),
    (r"accounts\.google\.com", "google"),
    (r".+\.okta(?:preview|-emea)?\.com", "okta"),
    (r".+\.auth0\.com", "auth0"),
)
"""How tokens are read, by the issuer's host; `preset` in the configuration says otherwise."""
_ISSUER_KEYS = {
    "discovery_url", "issuer", "preset", "organisations", "login_client_id", "login_secret_reference", "login_secret_json_key",
    "login_discovery_url", "require_tool_scopes", "allow_http_loopback",
}  # fmt: skip
_RULES = {
    "allowed_audience": "audiences",
    "allowed_audiences": "audiences",
    "allowed_clients": "clients",
    "allowed_scopes": "scopes",
}
_WORKLOAD_KEYS = {
    "shared_authorizer", "allowed_providers", "return_urls", "identity_audiences", "may_assert_users", "owner", "tags",
}  # fmt: skip
_AUTHORIZER_KEYS = {*_ISSUER_KEYS, *_RULES, *_WORKLOAD_KEYS, "custom_claims"}
_SECRET_KEYS = {
    "client_secret_arn", "client_secret_reference", "api_key_arn", "api_key_reference", "secret_arn", "secret_reference",
}  # fmt: skip
_VALUES = {"client_secret", "api_key", "secret", "secret_value"}
_JSON_KEYS = {"json_key", "secret_json_key", "client_secret_json_key", "api_key_json_key"}
_PROVIDER_KEYS = {
    "client_id", "client_authentication", "scopes", "release", "api_hosts", "allow_http_loopback", "disabled", "tags",
}  # fmt: skip
_OAUTH, _API_KEY = frozenset({"oauth", "oauth2"}), frozenset({"apikey"})
_REFERENCES = (
    "Put the secret into an environment variable or a file of the server, which its operator lists in "
    "MCP_IDENTITY_SECRET_SOURCES, and pass env:NAME or file:/path."
)


def authorizer_steps(who: Who, agent: str, kind: str, config: Mapping[str, Any]) -> Steps[dict[str, Any]]:
    """Let an issuer's tokens speak for an agent; the agent as it stands then.

    Raises:
        IdentityClientError: If the configuration is none, or the server refuses it.
    """
    if _plain(kind) not in ("jwt", "customjwt", "customjwtauthorizer"):
        raise _wrong(
            f"an authorizer is of the type jwt, not {clean_text(kind, 32)!r}",
            "For callers that sign with an access key, an operator runs `mcp-identity access-keys create` on the server.",
        )
    given = _known(_unwrapped(config), _AUTHORIZER_KEYS, "an authorizer")
    rules: dict[str, Any] = {"audiences": [], "clients": [], "scopes": []}
    for name, field in _RULES.items():
        rules[field] += _texts(name, given.get(name, ()))
    rules["claims"] = [_claim(each) for each in _claim_list(given.get("custom_claims", ()))]
    issuer = yield from _issuer(who, given, rules["audiences"])
    more = {name: given[name] for name in _WORKLOAD_KEYS & given.keys()}
    return (yield from _workload(who, agent, {"issuer": issuer, **rules, **more}))


def credential_steps(
    who: Who, agent: str, name: str, kind: str, config: Mapping[str, Any], release: str
) -> Steps[dict[str, Any]]:
    """Add a credential provider, or change it, and let an agent use it; the provider as it stands then.

    Args:
        who: As whom.
        agent: The workload's name.
        name: The provider's name.
        kind: ``oauth`` or ``api_key``.
        config: What it is like.
        release: How the secrets of a new one may leave where the configuration does not say.

    Raises:
        IdentityClientError: If the configuration is none, or the server refuses it.
    """
    fields = _fields(kind, config)
    vendor = fields.pop("vendor")
    before = yield from _found(Ask("get_provider", who, {"name": name}, admin=True))
    if before is None:
        made = {"name": name, "vendor": vendor, "release": release, **fields}
        provider = yield from asked(Ask("create_provider", who, made, repeatable=False, admin=True))
    elif before.get("vendor") != vendor:
        raise IdentityClientError(
            "conflict",
            f"there is a provider {name} already, of the vendor {before.get('vendor')}",
            remedy="Choose another name, or remove that one first.",
        )
    else:
        provider = yield from asked(Ask("update_provider", who, {"name": name, **fields}, repeatable=False, admin=True))
    yield from _allow(who, agent, name)
    return dict(provider)


def _fields(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a provider: the vendor, what every provider has, and the vendor's own settings."""
    is_key = _plain(kind) in _API_KEY
    if not is_key and _plain(kind) not in _OAUTH:
        raise _wrong(f"a credential is of the type oauth or api_key, not {clean_text(kind, 32)!r}", "")
    given = {_snake(name): value for name, value in config.items()}
    if _VALUES & given.keys():
        raise _wrong("a secret is never sent, it is named", _REFERENCES)
    named = [value for name, value in given.items() if name in _SECRET_KEYS and value is not None]
    if len(named) > 1:
        raise _wrong("one secret is named, and no more", _REFERENCES)
    default = "api-key" if is_key else "custom"
    fields: dict[str, Any] = {"vendor": given.get("vendor", default)}
    if named:
        fields["secret_reference"] = _reference(named[0])
        fields["secret_json_key"] = next((given[key] for key in _JSON_KEYS if given.get(key)), "")
    fields |= {key: given[key] for key in _PROVIDER_KEYS & given.keys()}
    if "scopes" in fields:
        fields["scopes"] = _texts("scopes", fields["scopes"])
    own = given.keys() - _SECRET_KEYS - _JSON_KEYS - _PROVIDER_KEYS - {"vendor", "settings"}
    settings = {**given.get("settings", {}), **{key: given[key] for key in own}}
    wrong = [key for key, value in settings.items() if not isinstance(value, str)]
    if wrong:
        raise _wrong(f"{wrong[0]} is no setting of a provider: settings are texts", "")
    return {**fields, "settings": settings} if settings else fields


def _reference(value: object) -> str:
    if isinstance(value, str) and value.startswith("arn:"):
        raise _wrong("an ARN names a secret at AWS, where this server does not read", _REFERENCES)
    if not isinstance(value, str) or not value.startswith(("env:", "file:")):
        raise _wrong("a secret is named by env:NAME or file:/path, and never sent", _REFERENCES)
    return value


def _allow(who: Who, agent: str, provider: str) -> Steps[None]:
    """See to it that an agent is there, and may use a provider."""
    before = yield from _found(Ask("get_workload_identity", who, {"name": agent}, admin=True))
    if before is None:
        yield from asked(Ask("create_workload_identity", who, {"name": agent}, repeatable=False, admin=True))
        return
    allowed = _texts("allowed_providers", before.get("allowed_providers") or [])
    if allowed and provider not in allowed:
        change = {"name": agent, "allowed_providers": [*allowed, provider]}
        yield from asked(Ask("update_workload_identity", who, change, repeatable=False, admin=True))


def _workload(who: Who, agent: str, fields: Mapping[str, Any]) -> Steps[dict[str, Any]]:
    before = yield from _found(Ask("get_workload_identity", who, {"name": agent}, admin=True))
    tool = "create_workload_identity" if before is None else "update_workload_identity"
    return dict((yield from asked(Ask(tool, who, {"name": agent, **fields}, repeatable=False, admin=True))))


def _issuer(who: Who, given: Mapping[str, Any], audiences: Sequence[str]) -> Steps[str]:
    """The name of the issuer that is meant; it is added where it is not there yet."""
    url, name = given.get("discovery_url", ""), given.get("issuer", "")
    if not isinstance(url, str) or not isinstance(name, str) or not (url or name):
        raise _wrong("an authorizer needs discovery_url, where its issuer's metadata is", "")
    listed = yield from asked(Ask("list_issuers", who, admin=True))
    for known in listed.get("issuers", []):
        same = {_origin(str(known.get("discovery_url", ""))), _origin(str(known.get("issuer", "")))}
        if known.get("name") == name if name else _origin(url) in same:
            missing = set(audiences) - set(known.get("audiences") or audiences)
            if missing:
                raise IdentityClientError(
                    "conflict",
                    f"the issuer {known['name']} is trusted for other audiences than {', '.join(sorted(missing))}",
                    remedy="An operator removes that issuer and adds it with every audience that its agents have.",
                )
            return str(known["name"])
    if not url:
        raise IdentityClientError("not_found", f"there is no issuer {clean_text(name, 128)}", remedy="Give its discovery_url.")
    fields: dict[str, Any] = {
        "name": name or _name_of(url),
        "discovery_url": url,
        "preset": given.get("preset") or _preset_of(url),
        "audiences": list(audiences),
        "claims": [
            {"claim": claim, "value": value}
            for claim, values in given.get("organisations", {}).items()
            for value in _texts("organisations", values)
        ],
    }
    if "login_secret_reference" in given:
        fields["secret_reference"] = _reference(given["login_secret_reference"])
        fields["secret_json_key"] = given.get("login_secret_json_key", "")
    for key in ("login_client_id", "login_discovery_url", "require_tool_scopes", "allow_http_loopback"):
        if key in given:
            fields[key] = given[key]
    made = yield from asked(Ask("create_issuer", who, fields, repeatable=False, admin=True))
    return str(made.get("name", fields["name"]))


def _found(ask: Ask) -> Steps[Mapping[str, Any] | None]:
    """What is asked for, or None where it is not there."""
    said = (yield ask).said
    if said.get("status") != "error":
        return said
    if said.get("code") in ("not_found", "unknown_provider"):
        return None
    raise error_of(said)


def _claim(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A rule for a claim: as ours are written, or as AgentCore's are."""
    if set(rule) == {"claim", "operator", "values"}:
        return dict(rule)
    flat = {_snake(name): value for name, value in rule.items()}
    match: Any = flat.get("authorizing_claim_match_value")
    if "inbound_token_claim_name" not in flat or not isinstance(match, Mapping):
        raise _wrong("a custom claim is {claim, operator, values}", "The operator is equals, contains or contains_any.")
    said: dict[str, Any] = {_snake(str(name)): each for name, each in _items(match)}
    value: Any = said.get("claim_match_value", {})
    if isinstance(value, Mapping):
        value = next((each for _, each in _items(value)), "")
    return {
        "claim": flat["inbound_token_claim_name"],
        "operator": str(said.get("claim_match_operator", "EQUALS")).lower(),
        "values": _texts("custom_claims", value),
    }


def _claim_list(given: object) -> list[Mapping[str, Any]]:
    """Rules for claims: a list of them, or `{claim: value}` for claims that must be equal."""
    if isinstance(given, Mapping):
        return [
            {"claim": claim, "operator": "equals", "values": [value]}
            if isinstance(value, str)
            else {"claim": claim, "operator": "contains_any", "values": _texts("custom_claims", value)}
            for claim, value in _items(given)
        ]
    rules = _list(given)
    if not all(isinstance(rule, Mapping) for rule in rules):
        raise _wrong("custom_claims is a list of {claim, operator, values}", "")
    return rules


def _unwrapped(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration without the wrapping of AgentCore's `authorizer_configuration`."""
    if len(config) == 1:
        (name, inner), *_ = config.items()
        if _plain(name) == "customjwtauthorizer" and isinstance(inner, Mapping):
            return dict(_items(inner))
    return config


def _known(config: Mapping[str, Any], keys: set[str], what: str) -> dict[str, Any]:
    given = {_snake(name): value for name, value in config.items()}
    unknown = sorted(given.keys() - keys)
    if unknown:
        raise _wrong(f"{what} has no {clean_text(unknown[0], 64)}", f"It has: {', '.join(sorted(keys))}.")
    return given


def _texts(name: str, given: object) -> list[str]:
    texts = _list(given)
    if not all(isinstance(each, str) for each in texts):
        raise _wrong(f"{name} is a list of texts", "")
    return texts


def _list(given: object) -> list[Any]:
    """What was given, as a list; one thing alone is a list of one."""
    return list(cast("Iterable[Any]", given)) if isinstance(given, list | tuple | set | frozenset) else [given]


def _items(given: Any) -> Iterable[tuple[str, Any]]:
    return cast("Mapping[str, Any]", given).items()


def _wrong(message: str, remedy: str) -> IdentityClientError:
    return IdentityClientError("invalid_request", message, remedy=remedy or None)


def _origin(url: str) -> str:
    """An issuer, however it was written: itself, or where its metadata is."""
    return _WELL_KNOWN.sub("", url).rstrip("/")


def _name_of(url: str) -> str:
    """A name for an issuer that nobody named: where it is."""
    parts = urlsplit(_origin(url))
    return _NO_NAME.sub("-", f"{parts.hostname or ''}{parts.path}".lower()).strip("-._")[:128] or "issuer"


def _preset_of(url: str) -> str:
    host = (urlsplit(url).hostname or "").lower()
    return next((preset for pattern, preset in _PRESETS if re.fullmatch(pattern, host)), "oidc")


def _snake(name: str) -> str:
    """`discoveryUrl` as `discovery_url`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
