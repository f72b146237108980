"""Is a workload told apart from every other, and does what an operator changes take effect at once?"""

from __future__ import annotations

from typing import Any

import pytest

from mcp_identity.broker.answers import ProviderSpec, TokenRequest
from mcp_identity.broker.specifications import WorkloadSpec
from mcp_identity.domain.authorizer import ClaimOperator, ClaimRule
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.workload_key import workload_key_digest
from tests.broker.kit import Product, raising
from tests.broker.operators import PUBLIC_URL, Operator
from tests.fakes.identity_provider import AUDIENCE, CLIENT, FakeIdentityProvider

FINANCE = ClaimRule("department", ClaimOperator.EQUALS, ("finance",))
SALES = ClaimRule("department", ClaimOperator.EQUALS, ("sales",))
STAFF = ClaimRule("groups", ClaimOperator.CONTAINS, ("staff",))


@pytest.fixture
async def corp(operator: Operator) -> Operator:
    """An operator with an issuer, `corp`, for two audiences."""
    await operator.add_issuer(FakeIdentityProvider(), audiences=(AUDIENCE, "other"))
    return operator


# Registering


async def test_a_workload_is_registered_with_everything_that_was_said(corp: Operator) -> None:
    said: dict[str, Any] = {
        "allowed_providers": ("github", "slack"),
        "return_urls": ("https://app.example.com/done?a=b", "http://127.0.0.1:3000/done", "http://[::1]/"),
        "identity_audiences": ("https://partner.example.com",),
        "may_assert_users": True,
        "owner": "the billing team",
        "tags": (("stage", "test"), ("area", "money")),
    }
    made = await corp.create(
        issuer="corp", audiences=(AUDIENCE,), clients=(CLIENT,), scopes=("run",), claims=(FINANCE, STAFF), **said
    )
    assert await corp.broker.workloads.get("default", "agent") == made
    issuer = await corp.broker.issuers.get("default", "corp")
    assert made.authorizer.issuer_id == issuer.id
    assert (made.authorizer.audiences, made.authorizer.clients, made.authorizer.scopes) == ({AUDIENCE}, {CLIENT}, {"run"})
    assert made.authorizer.claims == (FINANCE, STAFF)
    assert made.allowed_providers == {"github", "slack"}
    assert (made.return_urls, made.identity_audiences) == (said["return_urls"], said["identity_audiences"])
    assert (made.may_assert_users, made.owner) == (True, "the billing team")
    assert made.tags == (("area", "money"), ("stage", "test"))
    assert await corp.broker.workloads.issuer_name(made) == "corp"
    (event,) = await corp.trail("create_workload_identity")
    assert (event.outcome, event.detail["workload_identity"], event.workload) == ("ok", "agent", "operator")


async def test_a_name_is_taken_once_in_its_tenant_and_free_in_another(operator: Operator) -> None:
    await operator.create()
    with raising("conflict"):
        await operator.create()
    other = await operator.of("acme").create()
    assert (other.tenant, other.name) == ("acme", "agent")
    assert await operator.outcomes("create_workload_identity") == ["ok", "conflict"]
    assert await operator.of("acme").outcomes("create_workload_identity") == ["ok"]


@pytest.mark.parametrize("name", ["", "-a", "a b", "../x", "a\n", "é"])
async def test_a_name_that_could_be_taken_for_another_is_refused(operator: Operator, name: str) -> None:
    with raising("invalid_request"):
        await operator.create(name)
    with raising("not_found"):
        await operator.update(name, owner="x")


@pytest.mark.parametrize(
    ("spec", "code", "named"),
    [
        ({"issuer": "corp"}, "invalid_request", "--allowed-client"),
        ({"issuer": "corp", "scopes": ("run",)}, "invalid_request", "--allowed-client"),
        ({"clients": (CLIENT,)}, "invalid_request", "--issuer"),
        ({"claims": (FINANCE,)}, "invalid_request", "--issuer"),
        ({"issuer": "", "clients": (CLIENT,)}, "invalid_request", "issuer"),
        ({"issuer": "nosuch", "clients": (CLIENT,)}, "not_found", "issuers list"),
        ({"issuer": "corp", "audiences": ("third",)}, "invalid_request", AUDIENCE),
        ({"issuer": "corp", "clients": ("a b",)}, "invalid_request", "allowed client"),
        ({"issuer": "corp", "clients": ("",)}, "invalid_request", "allowed client"),
        ({"issuer": "corp", "clients": (CLIENT,), "scopes": ('a"b',)}, "invalid_scope", "scope"),
        ({"issuer": "corp", "claims": (ClaimRule("a", ClaimOperator.EQUALS, ("1", "2")),)}, "invalid_request", "equals"),
        ({"issuer": "corp", "claims": (ClaimRule("a", ClaimOperator.CONTAINS, ()),)}, "invalid_request", "contains"),
        ({"issuer": "corp", "claims": (ClaimRule("a", ClaimOperator.CONTAINS, ("",)),)}, "invalid_request", "value"),
        ({"issuer": "corp", "claims": (ClaimRule("", ClaimOperator.EQUALS, ("1",)),)}, "invalid_request", "name"),
        ({"allowed_providers": ("A b",)}, "invalid_request", "provider"),
        ({"owner": "a\nb"}, "invalid_request", "owner"),
        ({"owner": "a" * 257}, "invalid_request", "owner"),
        ({"tags": (("a", "1"), ("a", "2"))}, "invalid_request", "tag"),
        ({"tags": (("", "1"),)}, "invalid_request", "tag"),
        ({"identity_audiences": ("",)}, "invalid_request", "audience"),
        ({"identity_audiences": ("a\u2028b",)}, "invalid_request", "audience"),
    ],
)
async def test_what_is_missing_or_contradictory_is_named(corp: Operator, spec: dict[str, Any], code: str, named: str) -> None:
    with raising(code) as refused:
        await corp.create(**spec)
    assert named in refused.value.message
    assert (await corp.broker.workloads.list("default")).workloads == ()


@pytest.mark.parametrize(
    "url",
    [
        "http://app.example.com/",
        "http://localhost.example.com/",
        "https://app.example.com/#part",
        "https://user@app.example.com/",
        "https://app.example.com/a b",
        "https://app.example.com\\@evil.example.com/",
        "https://app.example.com/\nhttps://evil.example.com/",
        "javascript:alert(1)",
        "//app.example.com/",
        "/done",
        "",
        "http://127.1/",
        "http://[::ffff:127.0.0.1]/",
    ],
)
async def test_a_browser_is_sent_to_no_address_that_could_be_read_in_two_ways(operator: Operator, url: str) -> None:
    with raising("url_refused"):
        await operator.create(return_urls=(url,))


@pytest.mark.parametrize(
    "audience",
    [
        PUBLIC_URL,
        f"{PUBLIC_URL}/",
        f"{PUBLIC_URL}/mcp",
        AUDIENCE,
        "other",
        "https://idp.example.com",
        "https://idp.example.com/",
    ],
)
async def test_identity_tokens_are_never_for_ourselves_or_for_whom_we_are_a_client_of(corp: Operator, audience: str) -> None:
    with raising("access_denied"):
        await corp.create(identity_audiences=(audience,))


async def test_identity_tokens_are_never_for_a_token_endpoint_of_ours(operator: Operator) -> None:
    urls = {"authorization_url": "https://as.example.com/authorize", "token_url": "https://as.example.com/token"}
    spec = ProviderSpec(vendor="custom", client_id="x", client_authentication="none", settings=urls)
    await operator.broker.directory.add(operator.call(), "as", spec)
    with raising("access_denied"):
        await operator.create(identity_audiences=("https://as.example.com/token",))


# Telling workloads apart


async def test_two_workloads_are_told_apart_by_client_audience_or_an_exact_claim(corp: Operator) -> None:
    await corp.create("by-client", issuer="corp", clients=("one",))
    await corp.create("by-other-client", issuer="corp", clients=("two", "three"))
    await corp.create("by-claim", issuer="corp", clients=("four",), claims=(FINANCE,))
    await corp.create("by-other-claim", issuer="corp", clients=("four",), claims=(SALES,))
    await corp.create("by-audience", issuer="corp", clients=("five",), audiences=(AUDIENCE,))
    await corp.create("by-other-audience", issuer="corp", clients=("five",), audiences=("other",))


@pytest.mark.parametrize(
    "second",
    [
        {"clients": ("one",)},
        {"clients": ("one", "two")},
        {"clients": ("one",), "scopes": ("more",)},
        {"clients": ("one",), "claims": (STAFF,)},
        {"audiences": (AUDIENCE,)},
        {"claims": (FINANCE,)},
    ],
)
async def test_a_token_that_could_speak_for_two_is_refused_unless_both_share(corp: Operator, second: dict[str, Any]) -> None:
    await corp.create("first", issuer="corp", clients=("one",))
    with raising("conflict") as refused:
        await corp.create("second", issuer="corp", **second)
    assert "first" in refused.value.message
    assert "--shared-authorizer" in refused.value.message
    with raising("conflict"):
        await corp.create("second", issuer="corp", shared_authorizer=True, **second)
    await corp.update("first", shared_authorizer=True)
    await corp.create("second", issuer="corp", shared_authorizer=True, **second)
    with raising("conflict"):
        await corp.update("first", shared_authorizer=False)


async def test_a_name_that_is_taken_is_said_to_be_taken_whatever_the_authorizer(corp: Operator) -> None:
    await corp.create("first", issuer="corp", clients=("one",))
    with raising("conflict") as refused:
        await corp.create("first", issuer="corp", clients=("one",))
    assert "workloads update first" in refused.value.message


async def test_a_workload_does_not_overlap_with_itself(corp: Operator) -> None:
    await corp.create(issuer="corp", clients=("one",))
    assert (await corp.update(clients=("one", "two"))).authorizer.clients == {"one", "two"}


async def test_a_disabled_workload_keeps_its_place(corp: Operator) -> None:
    await corp.create("first", issuer="corp", clients=("one",))
    await corp.update("first", disabled=True)
    with raising("conflict"):
        await corp.create("second", issuer="corp", clients=("one",))


async def test_another_tenants_issuer_cannot_be_named(corp: Operator) -> None:
    with raising("not_found"):
        await corp.of("acme").create(issuer="corp", clients=("one",))


# Changing and removing


async def test_an_update_keeps_what_it_does_not_name_and_raises_the_epoch(corp: Operator) -> None:
    before = await corp.create(issuer="corp", clients=("one",), claims=(FINANCE,), allowed_providers=("github",), owner="me")
    after = await corp.update(scopes=("run",))
    assert (after.id, after.epoch) == (before.id, before.epoch + 1)
    assert (after.authorizer.clients, after.authorizer.claims, after.authorizer.scopes) == ({"one"}, (FINANCE,), {"run"})
    assert (after.allowed_providers, after.owner) == ({"github"}, "me")
    emptied = await corp.update(allowed_providers=(), claims=())
    assert (emptied.allowed_providers, emptied.authorizer.claims) == (frozenset(), ())
    with raising("invalid_request"):
        await corp.update(clients=())
    assert await corp.outcomes("update_workload_identity") == ["ok", "ok", "invalid_request"]


async def test_a_change_takes_effect_on_calls_that_were_authenticated_before(operator: Operator) -> None:
    workload = await operator.create()
    call = operator.broker.call(operator.caller(workload), "list_providers")
    await operator.broker.list_providers(call)
    await operator.update(owner="somebody else")
    with raising("access_denied"):
        await operator.broker.list_providers(call)


async def test_a_removed_workload_takes_its_grants_keys_and_consents_along(product: Product) -> None:
    await product.add()
    await product.connected()
    await product.broker.workloads.issue_key(product.call("issue_workload_key"), "agent")
    assert await product.grants()
    (ended,) = await product.broker.workloads.remove(product.call("delete_workload_identity"), "agent")
    assert (ended.provider, ended.at_vendor) == ("idp", "revoked")
    assert await product.grants() == []
    assert product.server.revocations
    with raising("not_found"):
        await product.broker.workloads.keys("default", "agent")
    with raising("access_denied"):
        await product.get()
    with raising("not_found"):
        await product.broker.workloads.remove(product.call("delete_workload_identity"), "agent")
    assert await product.outcomes("delete_workload_identity") == ["ok", "not_found"]


# Keys


async def test_a_key_is_shown_once_and_kept_as_a_digest(operator: Operator) -> None:
    workload = await operator.create()
    call = operator.call("issue_workload_key")
    issued = await operator.broker.workloads.issue_key(call, "agent", label="production", expires_in_days=1)
    digest = workload_key_digest(issued.key)
    assert digest is not None
    stored = await operator.vault.read(lambda records: records.find_workload_key(digest))
    assert stored is not None
    assert (stored.id, stored.workload_id, stored.label) == (issued.key_id, workload.id, "production")
    assert stored.expires_at == issued.expires_at == operator.in_minutes(24 * 60)
    text = issued.key.reveal()
    assert text.startswith("mid_wk_")
    home = operator.prepared.graph.settings.home
    assert text.encode() not in b"".join(path.read_bytes() for path in home.iterdir() if path.is_file())
    (event,) = await operator.trail("issue_workload_key")
    assert (event.outcome, event.detail) == ("ok", {"workload_identity": "agent", "key": issued.key_id})


async def test_two_keys_are_never_the_same(operator: Operator) -> None:
    await operator.create()
    keys = [await operator.broker.workloads.issue_key(operator.call(), "agent") for _ in range(3)]
    assert len({issued.key.reveal() for issued in keys}) == 3
    assert {key.id for key in await operator.broker.workloads.keys("default", "agent")} == {issued.key_id for issued in keys}


async def test_a_key_is_revoked_by_its_id_and_only_where_it_belongs(operator: Operator) -> None:
    await operator.create()
    await operator.create("other")
    issued = await operator.broker.workloads.issue_key(operator.call(), "agent")
    for tenant, name, key_id in (
        ("default", "other", issued.key_id),
        ("acme", "agent", issued.key_id),
        ("default", "agent", "x"),
    ):
        with raising("not_found"):
            await operator.broker.workloads.revoke_key(operator.of(tenant).call("revoke_workload_key"), name, key_id)
    await operator.broker.workloads.revoke_key(operator.call("revoke_workload_key"), "agent", issued.key_id)
    assert [key.revoked for key in await operator.broker.workloads.keys("default", "agent")] == [True]
    assert await operator.outcomes("revoke_workload_key") == ["not_found", "not_found", "ok"]


async def test_a_workload_and_its_first_key_come_together_or_not_at_all(operator: Operator) -> None:
    call = operator.call("create_workload_identity")
    issued = await operator.broker.workloads.create_with_key(call, "agent", WorkloadSpec())
    assert [key.id for key in await operator.broker.workloads.keys("default", "agent")] == [issued.key_id]
    with raising("conflict"):
        await operator.broker.workloads.create_with_key(call, "agent", WorkloadSpec())
    assert len(await operator.broker.workloads.keys("default", "agent")) == 1
    assert await operator.outcomes("issue_workload_key") == ["ok"]


@pytest.mark.parametrize("given", [{"expires_in_days": 0}, {"expires_in_days": 3651}, {"label": "a\nb"}, {"label": "a" * 257}])
async def test_a_key_without_a_sane_end_or_label_is_not_issued(operator: Operator, given: dict[str, Any]) -> None:
    await operator.create()
    with raising("invalid_request"):
        await operator.broker.workloads.issue_key(operator.call(), "agent", **given)


# What a workload may use


async def test_a_workload_uses_the_providers_that_it_was_given_and_no_other(product: Product) -> None:
    for name in ("idp", "other"):
        await product.add(name, flows="M2M")
    await product.add_api_key()
    workloads = product.broker.workloads
    await workloads.update(product.call(), "agent", WorkloadSpec(allowed_providers=("idp",)))
    product = await product.as_workload("agent")
    assert (await product.token()).provider == "idp"
    listing = await product.broker.list_providers(product.call())
    assert [each.provider.name for each in listing.providers] == ["idp"]
    for work in (
        lambda: product.get(provider="other"),
        lambda: product.get("a\x00scope", provider="other"),
        lambda: product.start(provider="other"),
        lambda: product.broker.get_api_key(product.call("get_api_key"), "key"),
    ):
        with raising("access_denied"):
            await work()
    assert await product.outcomes("get_token") == ["ok", "access_denied", "access_denied"]
    assert await product.outcomes("get_api_key") == ["access_denied"]


async def test_another_tenants_provider_answers_as_one_that_is_not_there(operator: Operator) -> None:
    spec = ProviderSpec(vendor="api-key", secret=Secret("api-key-canary"), release="token")
    await operator.of("acme").broker.directory.add(operator.of("acme").call(), "weather", spec)
    caller = operator.caller(await operator.create(allowed_providers=("weather",)))
    told: list[str] = []
    for name in ("weather", "nowhere"):
        with raising("unknown_provider") as refused:
            await operator.broker.get_api_key(operator.broker.call(caller, "get_api_key"), name)
        told.append(refused.value.message)
        with raising("unknown_provider") as refused:
            await operator.broker.get_token(operator.broker.call(caller, "get_token"), TokenRequest(name))
        told.append(refused.value.message)
    assert len(set(told)) == 1
    assert (await operator.broker.list_providers(operator.broker.call(caller, "list_providers"))).providers == ()
