# pyright: reportPrivateUsage=false
"""Whose answer counts, and how often?"""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from mcp_identity.domain.credentials import GrantState
from mcp_identity.domain.http import HttpResponse
from mcp_identity.vault.records import Records
from tests.broker.kit import BY_ISSUER, Pressed, Product, raising
from tests.fakes.authorization_server import respond_json

Parameters = list[tuple[str, str]]


async def pressed_and_consented(product: Product) -> tuple[Pressed, Parameters]:
    pressed = await product.press(await product.link())
    return pressed, product.server.person_consents(pressed.url)


async def outcome(product: Product, pressed: Pressed) -> tuple[str, str]:
    uri = f"urn:ietf:params:oauth:request_uri:{pressed.session_id}"
    status = await product.broker.get_consent(product.call(), uri)
    return status.status, status.error_code


async def nothing_was_exchanged(product: Product) -> None:
    assert product.server.count("authorization_code") == 0
    assert await product.grants() == []


# The browser


@pytest.mark.parametrize("cookies", [{}, {"x": "y"}, {"mine": ""}, {"mine": "A" * 43}, {"mine": "é"}])
async def test_another_browser_ends_the_consent(idp: Product, cookies: dict[str, str]) -> None:
    pressed, parameters = await pressed_and_consented(idp)
    brought = {pressed.session_id[:16] if name == "mine" else name: value for name, value in cookies.items()}
    await idp.come_back(Pressed(pressed.session_id, pressed.url, brought), parameters)
    assert await outcome(idp, pressed) == ("failed", "consent_mismatch")
    await nothing_was_exchanged(idp)
    assert (await idp.outcomes("callback")) == ["consent_mismatch"]
    with raising("consent_not_found"):
        await idp.come_back(pressed, parameters)


async def test_the_browser_of_an_earlier_press_does_not_count(idp: Product) -> None:
    consent = await idp.link()
    first = await idp.press(consent)
    second = await idp.press(consent)
    assert first.url != second.url
    with raising("consent_not_found"):
        await idp.come_back(first, idp.server.person_consents(first.url))
    parameters = idp.server.person_consents(second.url)
    await idp.come_back(second, parameters)
    assert await outcome(idp, second) == ("completed", "")


async def test_a_code_of_another_flow_does_not_count(idp: Product) -> None:
    """The attacker's code in the victim's session: the verifier does not fit it."""
    victim = await idp.press(await idp.link())
    attacker = await idp.press(await (await idp.as_workload("other")).link())
    state = idp.server.person_consents(victim.url)[1]
    code = idp.server.person_consents(attacker.url, account="mallory")[0]
    await idp.come_back(victim, [code, state])
    assert await outcome(idp, victim) == ("failed", "upstream_rejected")
    assert await idp.grants() == []


# The state


STATES: dict[str, list[str]] = {
    "absent": [],
    "twice": ["right", "second"],
    "unknown": ["A" * 43],
    "empty": [""],
    "no text": ["\udcff"],
}


@pytest.mark.parametrize("states", STATES.values(), ids=STATES.keys())
async def test_a_callback_without_a_known_state_changes_nothing(idp: Product, states: list[str]) -> None:
    pressed, parameters = await pressed_and_consented(idp)
    with raising("consent_not_found"):
        right = dict(parameters)["state"]
        brought = [("state", right if state == "right" else state) for state in states]
        await idp.come_back(pressed, [pair for pair in parameters if pair[0] != "state"] + brought)
    await nothing_was_exchanged(idp)
    assert await idp.outcomes("callback") == ["consent_not_found"]
    await idp.come_back(pressed, parameters)
    assert await outcome(idp, pressed) == ("completed", "")


async def test_answers_to_nothing_are_counted_and_do_not_fill_the_trail(idp: Product) -> None:
    """covers: A24, A45."""

    async def strays(number: int) -> None:
        for _ in range(number):
            with raising("consent_not_found"):
                await idp.broker.receive_callback("any", [("state", "x" * 43), ("code", "c")], {})

    await strays(100)
    idp.clock.advance(60)
    await strays(1)
    events = [event for event in await idp.trail() if event.action == "callback"]
    assert [event.outcome for event in events] == ["consent_not_found"] * 31
    assert [event.detail.get("left_out", "") for event in events[-2:]] == ["", "70"]


async def test_an_answer_counts_once(idp: Product) -> None:
    pressed, parameters = await pressed_and_consented(idp)
    await idp.come_back(pressed, parameters)
    for _ in range(2):
        with raising("consent_not_found"):
            await idp.come_back(pressed, parameters)
    assert idp.server.count("authorization_code") == 1
    assert await outcome(idp, pressed) == ("completed", "")


async def test_of_fifty_callbacks_at_once_one_exchanges(idp: Product) -> None:
    pressed, parameters = await pressed_and_consented(idp)
    arrived: list[str] = []
    refused: list[str] = []

    async def come_back() -> None:
        try:
            arrived.append(await idp.come_back(pressed, parameters))
        except Exception as error:  # noqa: BLE001 - counted by its code
            refused.append(getattr(error, "code", repr(error)))

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(come_back)
    assert (len(arrived), refused) == (1, ["consent_not_found"] * 49)
    assert idp.server.count("authorization_code") == 1
    assert await outcome(idp, pressed) == ("completed", "")


async def test_a_late_answer_does_not_count(idp: Product) -> None:
    pressed, parameters = await pressed_and_consented(idp)
    idp.clock.advance(600)
    await idp.come_back(pressed, parameters)
    assert await outcome(idp, pressed) == ("expired", "consent_expired")
    await nothing_was_exchanged(idp)


async def test_a_button_is_pressed_so_often_and_no_more(idp: Product) -> None:
    """Whoever holds the link may press it, without any credential. covers: A45."""
    consent = await idp.link()
    presses = [await idp.press(consent) for _ in range(20)]
    for _ in range(100):
        with raising("consent_not_found"):
            await idp.press(consent)
    assert await idp.outcomes("begin_consent") == ["ok"] * 20 + ["consent_not_found"] * 30
    await idp.come_back(presses[-1], idp.server.person_consents(presses[-1].url))
    assert await outcome(idp, presses[-1]) == ("completed", "")


async def test_the_button_of_an_ended_session_does_nothing(idp: Product) -> None:
    consent = await idp.link()
    idp.clock.advance(600)
    with raising("consent_expired"):
        await idp.press(consent)
    with raising("consent_not_found"):
        await idp.press(consent)
    assert await idp.outcomes("begin_consent") == ["consent_expired", "consent_not_found"]


# The provider and the agent


async def test_the_callback_of_another_provider_ends_the_consent(idp: Product) -> None:
    await idp.add("evil")
    pressed, parameters = await pressed_and_consented(idp)
    await idp.come_back(pressed, parameters, provider="evil")
    assert await outcome(idp, pressed) == ("failed", "consent_mismatch")
    await nothing_was_exchanged(idp)


@pytest.mark.parametrize(
    "change", [{"client_id": "other"}, {"disabled": True}, {"settings": {"token_url": "https://evil.example.com/token"}}]
)
@pytest.mark.parametrize("when", ["before the button", "before the answer"])
async def test_a_change_of_the_provider_ends_the_consent(idp: Product, change: dict[str, Any], when: str) -> None:
    consent = await idp.link()
    if when == "before the button":
        await idp.update(**change)
        with raising("provider_misconfigured"):
            await idp.press(consent)
    else:
        pressed = await idp.press(consent)
        parameters = idp.server.person_consents(pressed.url)
        await idp.update(**change)
        await idp.come_back(pressed, parameters)
    assert await idp.status(consent) == ("failed", "provider_misconfigured")
    await nothing_was_exchanged(idp)


async def test_a_removed_provider_has_no_consents(idp: Product) -> None:
    consent = await idp.link()
    pressed = await idp.press(consent)
    provider = await idp.broker.directory.get("default", "idp")
    await idp.broker.directory.remove(idp.call(), "idp")
    with raising("consent_not_found"):
        await idp.broker.receive_callback(provider.provider_id, idp.server.person_consents(pressed.url), pressed.cookies)
    with raising("consent_not_found"):
        await idp.status(consent)


def raise_workload_epoch(records: Records, name: str) -> None:
    """What changing a workload does to its row."""
    from sqlalchemy import update

    from mcp_identity.vault.records.base import table
    from mcp_identity.vault.records.rows import COVERED

    workloads = table("workload_identities")
    row = records.connection.execute(workloads.select().where(workloads.c.name == name)).mappings().one()
    values = {**row, "epoch": row["epoch"] + 1}
    covered = tuple(values[column] for column in COVERED["workload_identities"][1])
    values["mac"] = records._mac("default", "workload_identities", 1, covered)
    records.connection.execute(update(workloads).where(workloads.c.id == row["id"]).values(values))
    records.raise_epoch()


async def test_a_change_of_the_agent_ends_the_consent_and_its_calls(idp: Product) -> None:
    pressed, parameters = await pressed_and_consented(idp)
    await idp.run(lambda records: raise_workload_epoch(records, "agent"))
    await idp.come_back(pressed, parameters)
    await nothing_was_exchanged(idp)
    (event,) = [event for event in await idp.trail() if event.action == "callback"]
    assert event.outcome == "provider_misconfigured"
    for verb in (idp.get, idp.start, lambda: idp.broker.list_grants(idp.call()), lambda: idp.broker.list_providers(idp.call())):
        with raising("access_denied"):
            await verb()


# The vendor's answer


@pytest.mark.parametrize("by_issuer", [True, False])
async def test_an_answer_of_another_issuer_ends_the_consent(product: Product, by_issuer: bool) -> None:
    settings = BY_ISSUER if by_issuer else {"issuer": "https://idp.example.com", "token_url": "https://idp.example.com/token"}
    more = {} if by_issuer else {"authorization_url": "https://idp.example.com/authorize"}
    await product.add(settings=settings | more)
    pressed, parameters = await pressed_and_consented(product)
    evil = [(name, "https://evil.example.com" if name == "iss" else value) for name, value in parameters]
    await product.come_back(pressed, evil)
    assert await outcome(product, pressed) == ("failed", "consent_mismatch")
    await nothing_was_exchanged(product)


async def test_a_server_that_promised_its_name_must_give_it(product: Product) -> None:
    await product.add(settings=BY_ISSUER)
    pressed, parameters = await pressed_and_consented(product)
    await product.come_back(pressed, [pair for pair in parameters if pair[0] != "iss"])
    assert await outcome(product, pressed) == ("failed", "consent_mismatch")
    await nothing_was_exchanged(product)


async def test_an_error_of_another_issuer_is_no_denial(product: Product) -> None:
    await product.add(settings=BY_ISSUER)
    pressed, parameters = await pressed_and_consented(product)
    await product.come_back(pressed, [("error", "access_denied"), parameters[1], ("iss", "https://evil.example.com")])
    assert await outcome(product, pressed) == ("failed", "consent_mismatch")


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        ([("error", "access_denied")], "denied", "consent_denied"),
        ([("error", "invalid_scope"), ("error_description", "<b>no</b>")], "failed", "upstream_rejected"),
        ([("error", "x"), ("error", "y")], "failed", "upstream_bad_response"),
        ([], "failed", "upstream_bad_response"),
        ([("code", "")], "failed", "upstream_bad_response"),
        ([("code", "a"), ("code", "b")], "failed", "upstream_bad_response"),
    ],
)
async def test_what_is_no_code_exchanges_nothing(idp: Product, answer: Parameters, status: str, code: str) -> None:
    pressed, parameters = await pressed_and_consented(idp)
    await idp.come_back(pressed, [*answer, parameters[1]])
    assert await outcome(idp, pressed) == (status, code)
    await nothing_was_exchanged(idp)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (respond_json({"error": "invalid_client"}, 401), "upstream_rejected"),
        (respond_json({}, 503, retry_after="60"), "upstream_unavailable"),
        (respond_json({}, 429), "upstream_unavailable"),
        (HttpResponse(200, {"content-type": "text/html"}, b"<html>"), "upstream_bad_response"),
        (HttpResponse(302, {"location": "https://evil.example.com/"}, b""), "upstream_bad_response"),
        (respond_json({"access_token": "x"}), "upstream_bad_response"),
        (respond_json({"access_token": "x", "token_type": "mac"}), "upstream_bad_response"),
    ],
)
async def test_a_failed_exchange_is_tried_once_and_told(idp: Product, answer: HttpResponse, code: str) -> None:
    pressed, parameters = await pressed_and_consented(idp)
    idp.server.answer = answer
    await idp.come_back(pressed, parameters)
    assert await outcome(idp, pressed) == ("failed", code)
    assert idp.server.count("authorization_code") == 1
    assert await idp.grants() == []
    assert await idp.outcomes("complete_consent") == [code]


async def test_a_failed_consent_leaves_the_old_grant_alone(idp: Product) -> None:
    before = await idp.connected()
    consent = await idp.start()
    pressed = await idp.press(consent)
    idp.server.answer = respond_json({"error": "server_error"}, 400)
    await idp.come_back(pressed, idp.server.person_consents(pressed.url))
    assert (await idp.token()).access_token == before.access_token
    assert await idp.state() is GrantState.ACTIVE
