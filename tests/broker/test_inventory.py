"""Does an operator who came over a network see what is set up, page by page, and tag it without ending anything?"""

from __future__ import annotations

import anyio
import pytest

from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.broker.inventory import MAXIMUM_TAGS, TooManyTags
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.provider import ProviderKind
from tests.broker.kit import BY_URLS, Product, raising
from tests.broker.operators import Operator

OAUTH2, API_KEY = ProviderKind.OAUTH2, ProviderKind.API_KEY


async def add(operator: Operator, name: str, kind: ProviderKind = OAUTH2) -> None:
    """Add a provider of a kind."""
    spec = ProviderSpec(vendor="api-key", secret=Secret("key-canary"), release="token")
    if kind is OAUTH2:
        spec = ProviderSpec(vendor="custom", settings=BY_URLS, client_id="the-client", secret=Secret("secret-canary"))
    await operator.broker.directory.add(operator.call("create_provider"), name, spec)


async def test_pages_join_to_the_whole_listing(operator: Operator) -> None:
    for name in ("delta", "Alpha", "charlie", "bravo", "_echo"):
        await operator.create(name)
        await add(operator, name, API_KEY if name == "bravo" else OAUTH2)
    inventory, call = operator.broker.inventory, operator.call("list")
    whole = [each.name for each in await operator.broker.workloads.list("default")]
    for limit in (1, 2, 4, 5, 6):
        names, after = list[str](), ""
        while True:
            page = await inventory.workloads(call, limit=limit, after=after)
            assert len(page.workloads) <= limit
            names += [each.name for each in page]
            after = page.next
            if not after:
                break
        assert names == whole
    first = await inventory.providers(call, OAUTH2, limit=3)
    rest = await inventory.providers(call, OAUTH2, limit=3, after=first.next)
    assert [each.name for each in (*first.providers, *rest.providers)] == [name for name in whole if name != "bravo"]
    assert [each.name for each in (await inventory.providers(call, API_KEY, limit=3)).providers] == ["bravo"]
    assert len((await inventory.providers(call, limit=10)).providers) == 5


async def test_another_tenants_things_are_not_there(operator: Operator) -> None:
    await operator.create("agent")
    await add(operator, "idp")
    acme, inventory = operator.of("acme"), operator.broker.inventory
    await acme.create("theirs")
    assert [each.name for each in await inventory.workloads(acme.call(), limit=9)] == ["theirs"]
    assert (await inventory.providers(acme.call(), limit=9)).providers == ()
    with raising("not_found"):
        await inventory.workload(acme.call(), "agent")
    with raising("unknown_provider"):
        await inventory.provider(acme.call(), "idp")
    with raising("not_found"):
        await inventory.tag_workload(acme.call(), "agent", add={"a": "b"})
    with raising("unknown_provider"):
        await inventory.tag_provider(acme.call(), "idp", add={"a": "b"})


async def test_who_looked_at_what_is_in_the_trail(operator: Operator) -> None:
    await operator.create("agent")
    await add(operator, "idp")
    inventory = operator.broker.inventory
    await inventory.workload(operator.call("look"), "agent")
    await inventory.provider(operator.call("look"), "idp")
    await inventory.workloads(operator.call("look"), limit=1)
    with raising("not_found"):
        await inventory.workload(operator.call("look"), "nobody")
    with raising("unknown_provider"):
        await inventory.provider(operator.call("look"), "idp", API_KEY)
    assert await operator.outcomes("look") == ["ok", "ok", "ok", "not_found", "unknown_provider"]
    assert [(event.provider, event.detail.get("workload_identity")) for event in await operator.trail("look")] == [
        ("", "agent"), ("idp", None), ("", None), ("", "nobody"), ("idp", None)
    ]  # fmt: skip


async def test_a_provider_of_another_kind_is_none(operator: Operator) -> None:
    await add(operator, "key", API_KEY)
    directory = operator.broker.directory
    with raising("unknown_provider"):
        await directory.update(operator.call("change"), "key", ProviderSpec(disabled=True), OAUTH2)
    with raising("unknown_provider"):
        await directory.remove(operator.call("change"), "key", OAUTH2)
    assert not (await directory.get("default", "key", API_KEY)).disabled
    assert await operator.outcomes("change") == ["unknown_provider"] * 2


async def test_tags_are_added_replaced_and_taken_away(operator: Operator) -> None:
    await operator.create("agent", tags=(("team", "a"), ("tier", "1")))
    inventory, call = operator.broker.inventory, operator.call("tag")
    await inventory.tag_workload(call, "agent", add={"team": "b", "new": ""}, remove=("tier", "never there"))
    assert (await inventory.workload(call, "agent")).tags == (("new", ""), ("team", "b"))
    await inventory.tag_workload(call, "agent", add={}, remove=("new", "team"))
    assert (await inventory.workload(call, "agent")).tags == ()
    with raising("invalid_request"):
        await inventory.tag_workload(call, "agent", add={"": "b"})
    with pytest.raises(TooManyTags):
        await inventory.tag_workload(call, "agent", add={str(number): "" for number in range(MAXIMUM_TAGS + 1)})
    assert (await inventory.workload(call, "agent")).tags == ()


async def test_two_who_tag_at_once_do_not_undo_one_another(operator: Operator) -> None:
    await operator.create("agent")
    await add(operator, "idp")
    inventory = operator.broker.inventory
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tags = {f"tag-{number}": str(number)}
            tasks.start_soon(lambda tags=tags: inventory.tag_workload(operator.call("tag"), "agent", add=tags))
            tasks.start_soon(lambda tags=tags: inventory.tag_provider(operator.call("tag"), "idp", add=tags))
    expected = {f"tag-{number}": str(number) for number in range(20)}
    assert dict((await inventory.workload(operator.call(), "agent")).tags) == expected
    assert dict((await inventory.provider(operator.call(), "idp")).tags) == expected


async def test_tags_end_nothing(product: Product) -> None:
    provider = await product.add(flows="both")
    connected = await product.connected(flow="USER_FEDERATION")
    inventory, call = product.broker.inventory, product.call("tag")
    await inventory.tag_provider(call, "idp", add={"team": "a"})
    await inventory.tag_workload(call, product.principal.workload.name, add={"team": "a"})
    after = await inventory.provider(call, "idp")
    assert (after.epoch, after.tags) == (provider.epoch, (("team", "a"),))
    assert after.updated_at is not None
    assert (await inventory.workload(call, product.principal.workload.name)).epoch == product.principal.workload.epoch
    assert (await product.token(flow="USER_FEDERATION")).access_token == connected.access_token
    assert (await product.token(flow="M2M")).scopes == ("read",)  # its secret still opens


async def test_a_key_says_when_it_was_made(operator: Operator) -> None:
    await operator.create("agent")
    standing = await operator.broker.vault_standing(operator.call("look"))
    assert standing.key_id.startswith("local:")
    assert standing.changed_at <= operator.clock.now()
    await operator.of("acme").create("theirs")
    assert (await operator.broker.vault_standing(operator.of("acme").call())).key_id == standing.key_id
