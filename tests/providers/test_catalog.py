"""The catalogue: every file is sound, and settings fill it in or are refused by name."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from mcp_identity.domain.credentials import Flow
from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.provider import Dialect, Endpoints, ProviderDefinition, ProviderKind, Setting, Variant
from mcp_identity.oauth.authorization import check_agent_parameters
from mcp_identity.oauth.urls import check_url
from mcp_identity.providers import catalog

EXAMPLES = {
    "auth0": {"domain": "acme.eu.auth0.com"},
    "cognito": {"domain": "acme.auth.eu-west-1.amazoncognito.com"},
    "cyberark": {"domain": "abc1234.id.cyberark.cloud"},
    "fusionauth": {"domain": "acme.fusionauth.io"},
    "microsoft": {"tenant": "11111111-2222-3333-4444-555555555555"},
    "okta": {"domain": "acme.okta.com"},
    "onelogin": {"domain": "acme.onelogin.com"},
    "pingone": {"environment": "11111111-2222-3333-4444-555555555555"},
    "custom": {
        "authorization_url": "https://idp.example.com/authorize",
        "token_url": "https://idp.example.com/token",
    },
}
VENDORS = [
    "api-key", "atlassian", "auth0", "cognito", "custom", "cyberark", "dropbox", "facebook", "fusionauth", "github", "google",
    "hubspot", "linkedin", "microsoft", "notion", "okta", "onelogin", "pingone", "reddit", "salesforce", "slack", "spotify",
    "twitch", "x", "yandex", "zoom",
]  # fmt: skip
OWN = ["issuer", "authorization_url", "token_url", "revocation_url", "jwks_url"]
ISOLATED = [name for name, definition in catalog.load().items() if definition.isolated_tenants]


def test_the_catalogue_knows_its_vendors_in_order_and_is_read_once() -> None:
    assert list(catalog.load()) == VENDORS
    assert catalog.load() is catalog.load()


@pytest.mark.parametrize("name", VENDORS)
def test_a_file_is_named_after_its_vendor_and_says_when_and_against_what_it_was_checked(name: str) -> None:
    definition = catalog.get(name)
    assert definition.name == name
    assert definition.title
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", definition.checked)
    assert name == "api-key" or check_url(definition.documentation)
    assert not definition.register_url or definition.register_url.startswith("https://")


@pytest.mark.parametrize("name", [name for name in VENDORS if name != "api-key"])
def test_a_vendors_endpoints_are_https_and_its_fields_fit_together(name: str) -> None:
    definition = catalog.get(name)
    resolved = catalog.resolve(definition, EXAMPLES.get(name, {}))
    for url in resolved.endpoints.model_dump().values():
        assert not url or check_url(url)
    assert resolved.endpoints.token
    assert definition.client_authentication
    assert (Flow.USER_FEDERATION in resolved.flows) == bool(resolved.endpoints.authorization)
    dialect = resolved.dialect
    assert dialect.revocation_style == "none" or name in {"custom", "cyberark"} or resolved.endpoints.revocation
    assert bool(resolved.endpoints.jwks) <= bool(resolved.endpoints.issuer)
    # Whose issuer nobody can know beforehand says so; its ID tokens are verified once an operator has named it.
    unknown = any("ID tokens are verified" in note for note in definition.notes)
    assert not dialect.id_token or name == "custom" or unknown or (resolved.endpoints.issuer and resolved.endpoints.jwks)
    for parameter, pattern in dialect.agent_parameters.items():
        re.compile(pattern)
        with pytest.raises(InvalidRequest):
            check_agent_parameters(dialect, ((parameter, "x\r\ny"),))


@pytest.mark.parametrize("name", VENDORS)
def test_every_choice_of_every_setting_resolves(name: str) -> None:
    definition = catalog.get(name)
    for field, setting in definition.settings.items():
        for value in (*setting.choices, *([setting.example] if setting.example else [])):
            assert catalog.resolve(definition, EXAMPLES.get(name, {}) | {field: value}).settings[field] == value


def test_an_api_key_has_no_flows() -> None:
    definition = catalog.get("api-key")
    assert definition.kind is ProviderKind.API_KEY
    assert catalog.resolve(definition, {}).flows == ()


def test_an_unknown_vendor_is_refused_naming_those_that_look_alike() -> None:
    assert catalog.find("gogle") is None
    with pytest.raises(InvalidRequest) as failure:
        catalog.get("gogle")
    assert "did you mean google?" in failure.value.message
    with pytest.raises(InvalidRequest) as failure:
        catalog.get("zzz" * 1000)
    assert "known are api-key, atlassian, auth0" in failure.value.message


def test_an_unknown_setting_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(InvalidRequest) as failure:
        catalog.resolve(catalog.get("slack"), {"tokn": "user"})
    assert failure.value.code == "invalid_request"
    assert "'tokn'" in failure.value.message
    assert "pkce, token" in failure.value.message
    with pytest.raises(InvalidRequest):
        catalog.resolve(catalog.get("google"), {"tenant": "x"})


def test_a_missing_required_setting_is_refused_with_an_example() -> None:
    with pytest.raises(InvalidRequest) as failure:
        catalog.resolve(catalog.get("microsoft"), {})
    assert "'tenant' is required" in failure.value.message
    assert "11111111-2222-3333-4444-555555555555" in failure.value.message


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("microsoft", "tenant", "../evil"),
        ("microsoft", "tenant", "common/../x"),
        ("microsoft", "tenant", "COMMON"),
        ("microsoft", "tenant", ""),
        ("microsoft", "tenant", "11111111-2222-3333-4444-555555555555\n"),
        ("salesforce", "domain", "evil.example"),
        ("salesforce", "domain", "login.salesforce.com.evil.example"),
        ("salesforce", "domain", "login.salesforce.com/x"),
        ("salesforce", "domain", "evil.example/.my.salesforce.com"),
        ("salesforce", "domain", "evil.example#.my.salesforce.com"),
        ("salesforce", "domain", "a@b.my.salesforce.com"),
        ("salesforce", "domain", "acme.my.salesforce.com:444"),
        ("salesforce", "domain", "{domain}"),
        ("slack", "token", "both"),
        *((name, "domain", "evil.example/x") for name in ("auth0", "cognito", "cyberark", "fusionauth", "okta", "onelogin")),
        *((name, "domain", "a@evil.example") for name in ("auth0", "cognito", "cyberark", "fusionauth", "okta", "onelogin")),
        *((name, "domain", "evil.example:444") for name in ("auth0", "cognito", "cyberark", "fusionauth", "okta", "onelogin")),
        *((name, "domain", "") for name in ("auth0", "cognito", "cyberark", "fusionauth", "okta", "onelogin")),
        ("cyberark", "domain", "evil.example"),
        ("onelogin", "domain", "onelogin.com.evil.example"),
        ("okta", "domain", "localhost"),
        ("okta", "server", "a/b"),
        ("pingone", "environment", "../x"),
        ("pingone", "region", "evil.example"),
        ("cognito", "pool", "eu-west-1_a/b"),
        ("cognito", "region", "eu-west-1.evil.example"),
        ("zoom", "account", "a b"),
        ("dropbox", "token_url", "ftp://idp.example.com"),
        ("dropbox", "token_url", "https://idp.example.com/{issuer}"),
        ("dropbox", "issuer", "https://idp.example.com/?x"),
        ("github", "app", ""),
        ("custom", "token_url", "ftp://idp.example.com"),
        ("custom", "token_url", "https://a@b/"),
        ("custom", "token_url", "https://idp.example.com/{issuer}"),
        ("custom", "token_url", "https://idp.example.com/#x"),
        ("custom", "token_url", "https://" + "x" * 600),
        ("custom", "issuer", "https://idp.example.com/?x"),
        ("custom", "flows", "m2m"),
    ],
)
def test_a_value_enters_a_url_only_as_the_file_allows(name: str, field: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as failure:
        catalog.resolve(catalog.get(name), EXAMPLES.get(name, {}) | {field: value})
    assert repr(field) in failure.value.message
    assert "e.g." in failure.value.message


@pytest.mark.parametrize(
    "domain",
    [
        "login.salesforce.com",
        "test.salesforce.com",
        "acme.my.salesforce.com",
        "acme--dev.sandbox.my.salesforce.com",
        "a.my.salesforce.com",
    ],
)
def test_salesforce_is_asked_at_the_orgs_own_host(domain: str) -> None:
    endpoints = catalog.resolve(catalog.get("salesforce"), {"domain": domain}).endpoints
    assert endpoints.token == f"https://{domain}/services/oauth2/token"
    assert {urlsplit(url).hostname for url in (endpoints.authorization, endpoints.revocation)} == {domain}


@pytest.mark.parametrize(("choice", "flows"), [("M2M", (Flow.M2M,)), ("USER_FEDERATION", (Flow.USER_FEDERATION,))])
def test_the_custom_vendor_offers_the_flows_that_were_chosen(choice: str, flows: tuple[Flow, ...]) -> None:
    definition = catalog.get("custom")
    assert catalog.resolve(definition, {"flows": choice}).flows == flows
    assert catalog.resolve(definition, {}).flows == (Flow.M2M, Flow.USER_FEDERATION)


def test_the_custom_vendors_endpoints_are_what_the_operator_set() -> None:
    settings = {"issuer": "https://idp.example.com", "token_url": "http://127.0.0.1:9/token"}
    endpoints = catalog.resolve(catalog.get("custom"), settings).endpoints
    assert endpoints == Endpoints(issuer="https://idp.example.com", token="http://127.0.0.1:9/token")
    assert catalog.resolve(catalog.get("custom"), settings).dialect.audience_parameter == "audience"


@pytest.mark.parametrize("name", ISOLATED)
def test_where_a_customer_has_its_own_server_nothing_of_the_vendors_takes_part(name: str) -> None:
    urls = {field: f"https://login.example.com/{field}" for field in OWN}
    resolved = catalog.resolve(catalog.get(name), urls)
    assert resolved.endpoints == Endpoints(
        issuer=urls["issuer"],
        authorization=urls["authorization_url"],
        token=urls["token_url"],
        revocation=urls["revocation_url"],
        jwks=urls["jwks_url"],
    )
    assert resolved.api.hosts == ()
    assert catalog.resolve(catalog.get(name), {"issuer": urls["issuer"]}).endpoints == Endpoints(issuer=urls["issuer"])


@pytest.mark.parametrize("name", ISOLATED)
def test_a_vendors_own_endpoints_are_in_force_until_one_is_set(name: str) -> None:
    endpoints = catalog.resolve(catalog.get(name), EXAMPLES.get(name, {}) | dict.fromkeys(OWN, "")).endpoints
    assert endpoints.token
    assert catalog.get(name).endpoints.token.startswith("https://")


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"custom", "microsoft"}))
def test_a_setting_that_says_where_the_tenant_is_is_needed_only_without_endpoints(name: str) -> None:
    with pytest.raises(InvalidRequest) as failure:
        catalog.resolve(catalog.get(name), {})
    assert "is required" in failure.value.message
    assert "not needed where issuer or token_url is set" in failure.value.message
    assert catalog.resolve(catalog.get(name), {"token_url": "https://login.example.com/token"})


def test_settings_choose_among_a_vendors_servers() -> None:
    okta = catalog.resolve(catalog.get("okta"), {"domain": "acme.okta.com", "server": "org"}).endpoints
    assert (okta.issuer, okta.token) == ("https://acme.okta.com", "https://acme.okta.com/oauth2/v1/token")
    okta = catalog.resolve(catalog.get("okta"), {"domain": "login.acme.example", "server": "aus1"}).endpoints
    assert (okta.issuer, okta.revocation) == (
        "https://login.acme.example/oauth2/aus1",
        "https://login.acme.example/oauth2/aus1/v1/revoke",
    )
    ping = catalog.resolve(catalog.get("pingone"), {**EXAMPLES["pingone"], "region": "eu"})
    assert ping.endpoints.issuer == f"https://auth.pingone.eu/{EXAMPLES['pingone']['environment']}/as"
    assert ping.api.hosts == ("https://api.pingone.eu",)
    cognito = catalog.resolve(catalog.get("cognito"), {**EXAMPLES["cognito"], "pool": "eu-west-1_AbC", "region": "eu-west-1"})
    assert cognito.endpoints.issuer == "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC"
    assert catalog.resolve(catalog.get("cognito"), EXAMPLES["cognito"]).endpoints.issuer == ""


MADE_UP = ProviderDefinition(
    name="made-up",
    title="Made up",
    flows=(Flow.M2M,),
    settings={
        "region": Setting(description="where", pattern="[a-z{}]+", example="eu"),
        "mode": Setting(description="how", choices=("a", "b"), default="a"),
        "closed": Setting(description="nothing fits", default="x"),
    },
    endpoints=Endpoints(token="https://{region}.example/token"),
    dialect=Dialect(token_headers={"X": "{region}"}, token_path="{mode}", scope_separator=","),
    variants=(
        Variant(when={"mode": "b"}, endpoints={"token": "https://b-{region}.example/"}, dialect={"pkce": False}),
        Variant(when={"mode": "b", "region": "us"}, dialect={"scope_separator": ";"}, flows=(Flow.USER_FEDERATION,)),
    ),
)


def test_variants_replace_what_they_name_and_later_ones_win() -> None:
    plain = catalog.resolve(MADE_UP, {"region": "eu"})
    assert (plain.endpoints.token, plain.dialect.pkce, plain.flows) == ("https://eu.example/token", True, (Flow.M2M,))
    one = catalog.resolve(MADE_UP, {"region": "eu", "mode": "b"})
    assert (one.endpoints.token, one.dialect.pkce, one.dialect.scope_separator) == ("https://b-eu.example/", False, ",")
    two = catalog.resolve(MADE_UP, {"region": "us", "mode": "b"})
    assert (two.dialect.pkce, two.dialect.scope_separator, two.flows) == (False, ";", (Flow.USER_FEDERATION,))
    assert two.settings == {"region": "us", "mode": "b", "closed": "x"}


def test_a_value_that_looks_like_a_placeholder_stays_what_it_is() -> None:
    assert catalog.resolve(MADE_UP, {"region": "{mode}"}).endpoints.token == "https://{mode}.example/token"


def test_placeholders_are_filled_in_the_dialects_texts_too() -> None:
    assert catalog.resolve(MADE_UP, {"region": "eu", "mode": "b"}).dialect.token_path == "b"


def test_a_setting_with_neither_pattern_nor_choices_takes_only_its_default() -> None:
    with pytest.raises(InvalidRequest):
        catalog.resolve(MADE_UP, {"region": "eu", "closed": "y"})


@pytest.mark.parametrize("name", VENDORS)
def test_every_placeholder_names_a_setting(name: str) -> None:
    definition = catalog.get(name)
    text = definition.model_dump_json(include={"endpoints", "variants"})
    assert set(re.findall(r"\{([a-z_]+)\}", text)) <= set(definition.settings)
    for variant in definition.variants:
        assert set(variant.when) <= set(definition.settings)
        assert set(variant.endpoints) <= set(Endpoints.model_fields)
        assert set(variant.dialect) <= set(Dialect.model_fields)
