"""Does one principal ever see, use or end what is another's?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from mcp_identity.broker.answers import ConsentRequired, TokenRequest
from mcp_identity.domain.credentials import Reason
from mcp_identity.domain.errors import IdentityError
from tests.broker.kit import Product


@dataclass(frozen=True, slots=True)
class Theirs:
    """What another principal has.

    Attributes:
        pending: An open consent.
        completed: A consent that made a grant.
        tokens: Secrets that must not show anywhere.
    """

    pending: ConsentRequired
    completed: ConsentRequired
    tokens: tuple[str, ...]


async def owned_by(product: Product) -> Theirs:
    completed = await product.link("read", "theirs")
    await product.consent(completed, account="their-account")
    released = await product.token("read", "theirs")
    pending = await product.start("pending-of-theirs")
    return Theirs(pending, completed, (released.access_token.reveal(),))


Verb = Callable[[Product, Theirs], Awaitable[object]]


def _get(**request: str) -> Verb:
    async def verb(product: Product, theirs: Theirs) -> object:
        uris = {"pending": theirs.pending.session_uri, "completed": theirs.completed.session_uri}
        filled = {name: uris.get(value, value) for name, value in request.items()}
        return await product.broker.get_token(product.call("get_token"), TokenRequest("idp", **filled))  # pyright: ignore[reportArgumentType]

    return verb


async def _start(product: Product, _: Theirs) -> object:
    return await product.start()


async def _pending(product: Product, theirs: Theirs) -> object:
    return await product.broker.get_consent(product.call("get_consent"), theirs.pending.session_uri)


async def _completed(product: Product, theirs: Theirs) -> object:
    return await product.broker.get_consent(product.call("get_consent"), theirs.completed.session_uri)


async def _list_grants(product: Product, _: Theirs) -> object:
    return await product.broker.list_grants(product.call("list_grants"))


async def _list_providers(product: Product, _: Theirs) -> object:
    return [summary.grants for summary in (await product.broker.list_providers(product.call("list_providers"))).providers]


async def _revoke(product: Product, _: Theirs) -> object:
    return await product.broker.revoke_grant(product.call("revoke_grant"), "idp")


async def _revoke_flow(product: Product, _: Theirs) -> object:
    return await product.broker.revoke_grant(product.call("revoke_grant"), "idp", "USER_FEDERATION")


VERBS: dict[str, Verb] = {
    "get_token": _get(),
    "get_token of their scopes": _get(flow="USER_FEDERATION"),
    "get_token of their open session": _get(session_uri="pending"),
    "get_token of their ended session": _get(session_uri="completed"),
    "start_consent": _start,
    "get_consent open": _pending,
    "get_consent ended": _completed,
    "list_grants": _list_grants,
    "list_providers": _list_providers,
    "revoke_grant": _revoke,
    "revoke_grant by flow": _revoke_flow,
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
@pytest.mark.parametrize("other", ["another workload", "another user", "no user"])
async def test_nothing_of_one_principal_reaches_another(idp: Product, verb: Verb, other: str) -> None:
    theirs = await owned_by(idp)
    stranger = {
        "another workload": lambda: idp.as_workload("stranger"),
        "another user": lambda: idp.as_user("4242"),
    }.get(other)
    me = await stranger() if stranger else idp.as_workload_alone()
    try:
        answer = await verb(me, theirs)
    except IdentityError as error:
        answer = (error.code, error.message)
    shown = repr(answer)
    canaries = (*theirs.tokens, "theirs", "their-account", theirs.pending.session_uri[-43:], theirs.completed.session_uri[-43:])
    assert not [canary for canary in canaries if canary in shown]
    if isinstance(answer, tuple) and answer:
        assert answer[0] in {"consent_not_found", "not_found", "unsupported_flow"}
    if isinstance(answer, ConsentRequired):
        assert answer.reason in {Reason.NO_GRANT, Reason.FORCED}
    assert (await idp.token("read", "theirs")).access_token.reveal() == theirs.tokens[0]
    assert await idp.status(theirs.pending) == ("pending", "")


async def test_absent_and_not_yours_look_the_same(idp: Product) -> None:
    theirs = await owned_by(idp)
    stranger = await idp.as_workload("stranger")
    told: set[tuple[str, str]] = set()
    for uri in (theirs.pending.session_uri, theirs.completed.session_uri, theirs.pending.session_uri[:-43] + "A" * 43):
        with pytest.raises(IdentityError) as refused:
            await stranger.broker.get_consent(stranger.call(), uri)
        told.add((refused.value.code, refused.value.message))
    assert told == {("consent_not_found", "there is no such consent session")}


async def test_each_principal_has_a_grant_of_its_own(idp: Product) -> None:
    products = [idp, await idp.as_workload("second"), await idp.as_user("4242")]
    tokens = [(await product.connected()).access_token.reveal() for product in products]
    assert len(set(tokens)) == 3
    for product, token in zip(products, tokens, strict=True):
        assert (await product.token()).access_token.reveal() == token
        assert len((await product.broker.list_grants(product.call())).grants) == 1


async def test_workloads_do_not_share_the_clients_own_token(m2m: Product) -> None:
    other = await m2m.as_workload("other")
    assert (await m2m.token()).access_token != (await other.token()).access_token


async def test_users_of_one_workload_share_its_own_token(m2m: Product) -> None:
    other = await m2m.as_user("4242")
    assert (await m2m.token()).access_token == (await other.token()).access_token
