"""A desk without a broker behind it, and ways to knock at the pages."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import anyio
import httpx2
import pytest

from mcp_identity.domain.consent import ConsentBegun, ConsentState, ConsentView, Returned, SignInView
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import ConsentMismatch, ConsentNotFound, IdentityError, UpstreamUnavailable
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.login import BrowserSession, LoginTarget
from mcp_identity.web.consent import consent_app
from mcp_identity.web.guard import CheckPeer
from mcp_identity.web.listener import LoopbackListener

SESSION = "0123456789abcdefghijklmnopqrstuvwxyzABCDE-_"
HOST = "127.0.0.1:8976"
NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LOGIN = LoginTarget("acme", "issuer-1", "login.example.com")


def make_view(state: ConsentState = ConsentState.PENDING) -> ConsentView:
    """An ordinary view."""
    return ConsentView(
        id=SESSION,
        state=state,
        error_code="",
        workload="claude-desktop",
        workload_verified=False,
        user="ada",
        provider="github-work",
        provider_title="GitHub",
        provider_host="github.com",
        scopes=("read:user", "repo"),
        parameters=(),
        resource="",
        audience="",
        expires_at=NOW + timedelta(minutes=9),
        account_known=False,
    )


class FakeClock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed


class FakeEntropy:
    """Different bytes each time, the same in each run."""

    def __init__(self) -> None:
        self.calls = 0

    def random_bytes(self, count: int) -> bytes:
        self.calls += 1
        return hashlib.shake_256(str(self.calls).encode()).digest(count)


@dataclass
class FakeDesk:
    """A broker's counter whose every answer is a knob, and which remembers what it was asked to change.

    Attributes:
        view: What every known session shows.
        vault: The vault's key, so that two desks with one value are siblings.
        authorization_url: Where the button leads.
        begin_error: Raised by the button, if set.
        callback_error: Raised by the callback, if set.
        callback_state: What the view's state is after a callback.
        refuses: The callback comes from another browser.
        redirect_url: Where the callback sends the browser on to, or empty.
        initiator: The subject that has to be signed in, or empty.
        open_consents: Whether something is open; an error is raised.
        begun: What the button was pressed with.
        callbacks: What callbacks brought.
    """

    view: ConsentView = field(default_factory=make_view)
    vault: bytes = b"vault-1"
    authorization_url: str = "https://github.com/login/oauth/authorize?state=s"
    begin_error: Exception | None = None
    callback_error: Exception | None = None
    callback_state: ConsentState = ConsentState.COMPLETED
    refuses: bool = False
    redirect_url: str = ""
    initiator: str = ""
    open_consents: bool | IdentityError = False
    begun: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    callbacks: list[tuple[str, list[tuple[str, str]], dict[str, str]]] = field(
        default_factory=list[tuple[str, list[tuple[str, str]], dict[str, str]]]
    )

    async def view_consent(self, session_id: str, browser: BrowserSession | None = None) -> ConsentView | SignInView:
        if session_id != self.view.id:
            raise ConsentNotFound("no such session")
        if self.initiator and (browser is None or browser.user.subject != self.initiator):
            return SignInView(self.view.id, self.view.state, LOGIN, stranger=browser is not None)
        if self.initiator and browser is not None:
            return replace(self.view, login=LOGIN, signed_in_as=browser.user.display)
        return self.view

    async def begin_consent(
        self, session_id: str, *, allow_other_account: bool, browser: BrowserSession | None = None
    ) -> ConsentBegun:
        if self.initiator and (browser is None or browser.user.subject != self.initiator):
            raise ConsentMismatch("somebody else")
        if self.begin_error is not None:
            raise self.begin_error
        if session_id != self.view.id:
            raise ConsentNotFound("no such session")
        self.begun.append((session_id, allow_other_account))
        return ConsentBegun(self.authorization_url, Secret("browser-secret"))

    async def receive_callback(
        self,
        provider_id: str,
        parameters: Sequence[tuple[str, str]],
        browser_secrets: Mapping[str, str],
        browser: BrowserSession | None = None,
    ) -> Returned:
        self.callbacks.append((provider_id, list(parameters), dict(browser_secrets)))
        if self.callback_error is not None:
            raise self.callback_error
        if self.refuses or (self.initiator and (browser is None or browser.user.subject != self.initiator)):
            return Returned(self.view.id, refused=True)
        self.view = replace(self.view, state=self.callback_state)
        return Returned(self.view.id, self.redirect_url)

    async def has_open_consents(self) -> bool:
        if isinstance(self.open_consents, IdentityError):
            raise self.open_consents
        return self.open_consents

    def page_key(self) -> bytes:
        return hashlib.sha256(b"page" + self.vault).digest()

    def prove_vault(self, nonce: bytes, port: int) -> bytes:
        return hmac.digest(self.vault, nonce + port.to_bytes(2, "big"), hashlib.sha256)

    def check_vault_proof(self, nonce: bytes, port: int, proof: bytes) -> bool:
        return hmac.compare_digest(proof, self.prove_vault(nonce, port))


@dataclass(frozen=True, slots=True)
class Element:
    """A start tag with its attributes' names and values."""

    tag: str
    attributes: tuple[tuple[str, str | None], ...]

    def get(self, name: str) -> str | None:
        return dict(self.attributes).get(name)


class Page(HTMLParser):
    """What a browser would make of a page: its elements and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, tuple(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def find(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    @property
    def words(self) -> str:
        """The text with white space folded."""
        return " ".join(self.text.split())

    @property
    def form_token(self) -> str:
        """The value of the hidden field."""
        return next(
            value for field in self.find("input") if field.get("name") == "form_token" and (value := field.get("value"))
        )


async def send(request: HttpRequest) -> HttpResponse:
    """A transport as the listener is given one: plain HTTP, a deadline, designed errors."""
    try:
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
            answer = await client.request(request.method, request.url, headers=dict(request.headers), content=request.body)
    except httpx2.TransportError as error:
        raise UpstreamUnavailable("no answer") from error
    return HttpResponse(answer.status_code, dict(answer.headers), answer.content[: request.maximum_bytes])


@contextmanager
def raising(code: str) -> Generator[None]:
    """The block fails with this code."""
    with pytest.raises(IdentityError) as caught:
        yield
    assert caught.value.code == code


Sender = Callable[[HttpRequest], Awaitable[HttpResponse]]
Raising = Callable[[str], AbstractContextManager[None]]


@pytest.fixture
def sender() -> Sender:
    return send


@pytest.fixture(name="raising")
def raising_fixture() -> Raising:
    return raising


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
def other_desk() -> FakeDesk:
    return FakeDesk(vault=b"vault-2")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def entropy() -> FakeEntropy:
    return FakeEntropy()


@asynccontextmanager
async def connected(
    desk: FakeDesk, clock: FakeClock, entropy: FakeEntropy, check_peer: CheckPeer | None = None
) -> AsyncGenerator[httpx2.AsyncClient]:
    """Something that keeps cookies and follows no redirect, before the pages of `desk`."""
    hosts = frozenset({HOST, "localhost:8976"})
    app = consent_app(desk, allowed_hosts=hosts, clock=clock, entropy=entropy, check_peer=check_peer)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=f"http://{HOST}") as client:
        yield client


Connect = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def connect() -> Connect:
    return connected


@pytest.fixture
async def browser(desk: FakeDesk, clock: FakeClock, entropy: FakeEntropy) -> AsyncGenerator[httpx2.AsyncClient]:
    async with connected(desk, clock, entropy) as client:
        yield client


ReadPage = Callable[[str], Page]


@pytest.fixture
def read_page() -> ReadPage:
    return Page


SocketOfUser = Callable[[int], socket.socket]


@pytest.fixture
def socket_of_user() -> Generator[SocketOfUser]:
    """Makes TCP sockets as programs of a user would have them; the kernel notes the owner when a socket is made."""
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("only root on Linux can make a socket of another user")
    with ExitStack() as sockets:

        def make(uid: int) -> socket.socket:
            os.seteuid(uid)
            try:
                made = sockets.enter_context(socket.socket())
            finally:
                os.seteuid(0)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return made

        yield make


class Ticks:
    """The pause of a listener, ended by hand."""

    def __init__(self) -> None:
        self._go, self._wait = anyio.create_memory_object_stream[None](0)
        self._resting = anyio.Event()

    async def pause(self) -> None:
        self._resting.set()
        await self._wait.receive()

    async def tick(self) -> None:
        """Let the listener look once; returns when it rests again."""
        await self._resting.wait()
        self._resting = anyio.Event()
        await self._go.send(None)
        await self._resting.wait()

    def close(self) -> None:
        self._go.close()
        self._wait.close()


class Processes:
    """Makes listeners as processes of a vault would have them: one clock, each its own loop."""

    def __init__(self, clock: FakeClock, entropy: FakeEntropy, sender: Sender) -> None:
        self._clock = clock
        self._entropy = entropy
        self._sender = sender

    @asynccontextmanager
    async def start(
        self, desk: FakeDesk, port: int = 0, sender: Sender | None = None
    ) -> AsyncGenerator[tuple[LoopbackListener, Ticks]]:
        ticks = Ticks()
        listener = LoopbackListener(
            desk, port=port, send=sender or self._sender, clock=self._clock, entropy=self._entropy, pause=ticks.pause
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(listener.run)
            yield listener, ticks
            tasks.cancel_scope.cancel()
        ticks.close()


@pytest.fixture
def processes(clock: FakeClock, entropy: FakeEntropy, sender: Sender) -> Processes:
    return Processes(clock, entropy, sender)
