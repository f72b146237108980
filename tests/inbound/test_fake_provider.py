"""The fake provider is as strict as a real one: codes work once, with their verifier, and answers name their issuer."""

from __future__ import annotations

import base64
import hashlib
from http.client import HTTPConnection
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio.to_thread
import pytest

from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.oauth.answers import parse_object
from mcp_identity.oauth.id_token import verify_id_claims
from mcp_identity.oauth.jws import key_set_request
from mcp_identity.transport import Transport
from tests.fakes.identity_provider import BOB, LOGIN_CLIENT, LOGIN_SECRET, PRESETS, FakeIdentityProvider, Preset

Redirect = tuple[int, dict[str, str]]
VERIFIER, REDIRECT = "v" * 43, "http://127.0.0.1:1/login/callback/x"


def authorization_query(**changes: str) -> str:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": LOGIN_CLIENT,
        "redirect_uri": REDIRECT,
        "state": "s",
        "nonce": "n",
        "scope": "openid",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    return urlencode(query | changes)


async def browse(url: str, cookie: str = "") -> Redirect:
    """The status, and the query of the place that a browser is sent to."""

    def get() -> Redirect:
        parts = urlsplit(url)
        connection = HTTPConnection(parts.netloc, timeout=10)
        connection.request("GET", f"{parts.path}?{parts.query}", headers={"Cookie": cookie} if cookie else {})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, dict(parse_qsl(urlsplit(answer.getheader("location", "")).query))

    return await anyio.to_thread.run_sync(get)


async def redeem(idp: FakeIdentityProvider, given: str, **changes: str) -> HttpResponse:
    basic = base64.b64encode(f"{LOGIN_CLIENT}:{changes.pop('secret', LOGIN_SECRET)}".encode()).decode()
    form = {"grant_type": "authorization_code", "code": given, "redirect_uri": REDIRECT, "code_verifier": VERIFIER} | changes
    headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
    request = HttpRequest("POST", idp.token_url, headers, urlencode(form).encode())
    return await Transport().send(request, allow_http_loopback=True)


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_browser_signs_in_at_every_vendor(preset: Preset) -> None:
    idp = FakeIdentityProvider(preset)
    async with idp.serve():
        status, answer = await browse(f"{idp.authorization_url}?{authorization_query()}", "idp_user=bob")
        assert (status, answer["state"], answer["iss"]) == (302, "s", idp.issuer)
        tokens = parse_object(await redeem(idp, answer["code"]))
        keys = await Transport().send(key_set_request(idp.jwks_url), allow_http_loopback=True)
        token = tokens["id_token"]
        assert isinstance(token, str)
        claims = verify_id_claims(
            token, keys, issuers=frozenset({idp.issuer}), client_id=LOGIN_CLIENT, nonce="n", now=idp.now()
        )
        assert claims["name"] == BOB.name
        assert (await redeem(idp, answer["code"])).status == 400


async def test_a_code_needs_its_verifier_its_redirect_uri_and_its_client() -> None:
    idp = FakeIdentityProvider()
    async with idp.serve():
        for changes in ({"code_verifier": "w" * 43}, {"redirect_uri": f"{REDIRECT}y"}, {"secret": "wrong"}, {"code": "other"}):
            _, answer = await browse(f"{idp.authorization_url}?{authorization_query()}")
            assert (await redeem(idp, answer["code"], **changes)).status in (400, 401)


async def test_the_person_may_say_no_and_requests_without_proof_are_refused() -> None:
    idp = FakeIdentityProvider()
    async with idp.serve():
        idp.knobs.denies = True
        _, answer = await browse(f"{idp.authorization_url}?{authorization_query()}")
        assert answer["error"] == "access_denied"
        for changes in (
            {"client_id": "x"},
            {"code_challenge": ""},
            {"code_challenge_method": "plain"},
            {"response_type": "token"},
        ):
            assert (await browse(f"{idp.authorization_url}?{authorization_query(**changes)}"))[0] == 400
