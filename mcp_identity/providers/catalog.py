"""Which vendors do we know, and what do a vendor's facts become with an operator's settings filled in?

Reads `data/<vendor>.toml`, one file a vendor, and substitutes validated settings. Holds no secret, opens no connection and
makes no exception for any vendor: what is special about one stands in its file. Trusts the files, which ship with us, and
not the settings: a value enters a URL only after its whole has matched the file's pattern.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from mcp_identity.domain.credentials import Flow
from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.provider import Api, Dialect, Endpoints, ProviderDefinition, ResolvedDefinition, Setting

MAXIMUM_SETTING_LENGTH = 512

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_URL = r'https?://[^\s#@\\{}"<>]{1,500}'
_OWN_ENDPOINTS = {
    "issuer": Setting(
        description="the issuer of an authorization server of your own; its metadata gives the endpoints that are not set",
        pattern=r'https?://[^\s?#@\\{}"<>]{1,500}',
        default="",
        example="https://login.example.com",
    ),
    "authorization_url": Setting(
        description="its authorization endpoint", pattern=_URL, default="", example="https://login.example.com/authorize"
    ),
    "token_url": Setting(description="its token endpoint", pattern=_URL, default="", example="https://login.example.com/token"),
    "revocation_url": Setting(
        description="its revocation endpoint", pattern=_URL, default="", example="https://login.example.com/revoke"
    ),
    "jwks_url": Setting(
        description="its key set, to verify ID tokens with", pattern=_URL, default="", example="https://login.example.com/keys"
    ),
}
"""The settings of a vendor whose customers may have an authorization server of their own; they alone are its endpoints."""
_AGENTCORE_ENDPOINTS = {"issuer": "issuer", "authorizationEndpoint": "authorization_url", "tokenEndpoint": "token_url"}


@cache
def load() -> Mapping[str, ProviderDefinition]:
    """All provider definitions by name, sorted."""
    folder = files("mcp_identity.providers") / "data"
    found = (
        _complete(ProviderDefinition.model_validate(tomllib.loads(entry.read_text("utf-8"))))
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )
    return MappingProxyType({definition.name: definition for definition in sorted(found, key=lambda each: each.name)})


def find(name: str) -> ProviderDefinition | None:
    """The definition of this name, or None."""
    return load().get(name)


def by_agentcore_vendor(name: str) -> ProviderDefinition | None:
    """The definition of what AgentCore calls a vendor (``credentialProviderVendor``), or None."""
    return _by_agentcore_vendor().get(name)


def get(name: str) -> ProviderDefinition:
    """The definition of this name.

    Raises:
        InvalidRequest: If there is none; the message names those that look alike.
    """
    definition = find(name)
    if definition is None:
        near = get_close_matches(name[:128].lower(), load(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(load())}"
        raise InvalidRequest(f"no vendor is called {name[:64]!r}; {hint}")
    return definition


def resolve(definition: ProviderDefinition, settings: Mapping[str, str]) -> ResolvedDefinition:
    """Fill a definition's settings in and apply the variants that they choose.

    Where a customer has an authorization server of its own, nothing of the vendor's takes part: no endpoint of the file, and
    none of its API hosts, so that no token of the one reaches the other.

    Args:
        definition: The vendor's facts.
        settings: What the operator set, by field.

    Returns:
        Endpoints, dialect, API and flows in force, with every setting, defaults included.

    Raises:
        InvalidRequest: If a field is unknown, required and missing, or its value is not what the file allows. The message
            names the field and an example.
    """
    unknown = sorted(set(settings) - set(definition.settings))
    if unknown:
        known = ", ".join(sorted(definition.settings)) or "none"
        raise InvalidRequest(f"{definition.name} has no setting {unknown[0][:64]!r}; its settings are: {known}")
    own = definition.isolated_tenants and any(settings.get(field) for field in _OWN_ENDPOINTS)
    values = {
        field: _value(field, setting, settings.get(field))
        for field, setting in definition.settings.items()
        if not own or setting.default is not None or field in settings
    }
    endpoints: dict[str, Any] = definition.endpoints.model_dump()
    dialect: dict[str, Any] = definition.dialect.model_dump()
    api: dict[str, Any] = definition.api.model_dump()
    flows = definition.flows
    for variant in definition.variants:
        if all(values.get(field) == value for field, value in variant.when.items()):
            endpoints |= variant.endpoints
            dialect |= variant.dialect
            api |= variant.api
            flows = variant.flows or flows
    if own:
        endpoints = {field.removesuffix("_url"): values[field] for field in _OWN_ENDPOINTS}
        api |= {"hosts": ()}
    spoken = Dialect.model_validate({name: _filled(value, values) for name, value in dialect.items()})
    exchange = Flow.ON_BEHALF_OF_TOKEN_EXCHANGE
    return ResolvedDefinition(
        endpoints=Endpoints.model_validate({name: _fill(url, values) for name, url in endpoints.items()}),
        dialect=spoken,
        api=Api.model_validate({name: _filled(value, values) for name, value in api.items()}),
        flows=flows if spoken.on_behalf_of == "no" or exchange in flows else (*flows, exchange),
        settings=values,
    )


@cache
def _by_agentcore_vendor() -> Mapping[str, ProviderDefinition]:
    return {each.agentcore_vendor: each for each in load().values() if each.agentcore_vendor}


def _complete(definition: ProviderDefinition) -> ProviderDefinition:
    if not definition.isolated_tenants:
        return definition
    return definition.model_copy(
        update={
            "settings": {**definition.settings, **_OWN_ENDPOINTS},
            "agentcore_settings": {**_AGENTCORE_ENDPOINTS, **definition.agentcore_settings},
        }
    )


def _value(field: str, setting: Setting, value: str | None) -> str:
    example = setting.example or " | ".join(setting.choices)
    hint = f"{setting.description}{f', e.g. {example}' if example else ''}"
    value = setting.default if value is None else value
    if value is None:
        raise InvalidRequest(f"the setting {field!r} is required (--set {field}=VALUE): {hint}")
    if value == setting.default:
        return value
    # An empty pattern allows nothing: a setting without choices says what it takes.
    allowed = value in setting.choices if setting.choices else re.fullmatch(setting.pattern, value, re.ASCII) is not None
    if len(value) > MAXIMUM_SETTING_LENGTH or not allowed:
        raise InvalidRequest(f"the setting {field!r} has a value that is not allowed: {hint}")
    return value


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Replace `{field}`; one pass, so a value that looks like a placeholder stays what it is."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], ""), text)


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(each, values) for name, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, tuple):
        return tuple(_filled(each, values) for each in value)  # pyright: ignore[reportUnknownVariableType] - of a model
    return _fill(value, values) if isinstance(value, str) else value
