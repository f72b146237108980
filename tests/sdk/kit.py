"""A server in a thread of its own, as a client in this process meets it; people who agree; steps that are answered by hand."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from mcp_identity.broker.specifications import WorkloadSpec
from mcp_identity.sdk.client import IdentityClient
from mcp_identity.sdk.endpoint import Who
from mcp_identity.sdk.steps import Ask, Reply, Step, Steps
from tests.fakes.browser import Browser
from tests.fakes.home import VaultHome, free_port
from tests.fakes.vendor import Vendor, running_vendor
from tests.http.kit import Server, local_options, server_here

T = TypeVar("T")
RETURN_URL = "http://127.0.0.1:9/done"
ALICE = Who("mid_wk_alice", "mid_wk_alice")


@dataclass(slots=True)
class World:
    """A running server with providers, its vendor, and the workload `alice`, which may name users.

    Attributes:
        portal: Runs what belongs to the server's loop.
        server: The server.
        vendor: The vendor.
        clients: What was made here; closed with the world.
    """

    portal: BlockingPortal
    server: Server
    vendor: Vendor
    clients: ExitStack = field(default_factory=ExitStack)

    @property
    def home(self) -> VaultHome:
        """Its vault."""
        return self.server.home

    def client(self, agent: str = "alice", **options: Any) -> IdentityClient:
        """A client with the key of an agent."""
        given: dict[str, Any] = {"token": self.server.keys[agent], **options}
        return self.clients.enter_context(IdentityClient(self.server.url, **given))

    def events(self, action: str) -> list[dict[str, Any]]:
        """What the trail says of a verb."""
        return [event for event in self.home.trail() if event["action"] == action]

    def update(self, agent: str, **spec: Any) -> None:
        """Change a workload, as its operator."""
        assert self.server.serving is not None
        graph = self.server.serving.prepared.graph

        async def change() -> None:
            call = graph.broker.call(graph.broker.directory.operator(graph.user), "update_workload_identity")
            await graph.broker.workloads.update(call, agent, WorkloadSpec(**spec))

        self.portal.call(change)

    def agree(self, client: IdentityClient, user_id: str) -> Callable[[str], None]:
        """A person who opens a link and agrees, and the app that says who they are."""

        def open_link(link: str) -> None:
            session_id = arrive(link)
            if session_id:
                client.complete_consent(session_id, user_id=user_id)

        return open_link


def arrive(link: str) -> str:
    """A person opens a link and does what it asks; the completion URI that the app's own URL gets."""
    with Browser(stop_at=RETURN_URL) as browser:
        page = browser.consent(link)
    assert page.url.startswith(RETURN_URL), page.text
    return page.query.get("session_id", "")


@contextmanager
def running_world(folder: Path, **settings: Any) -> Generator[World]:
    """A world on a free port, in a thread of its own."""
    home, port = VaultHome(folder), free_port()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running_vendor()) as vendor,
    ):
        portal.call(home.add_providers, vendor)
        given: dict[str, Any] = {
            "public_url": f"http://127.0.0.1:{port}",
            "calls_per_second": 10_000,
            "requests_per_second": 10_000,
            **settings,
        }
        serving = server_here(home, local_options("http", port=port), **given)
        with portal.wrap_async_context_manager(serving) as server, ExitStack() as clients:
            world = World(portal, server, vendor, clients)
            world.update("alice", may_assert_users=True, return_urls=(RETURN_URL,))
            yield world


def play(steps: Steps[T], *replies: Mapping[str, Any] | Reply) -> tuple[T, list[Step]]:
    """Answer the steps of a flow one after another; what it returns, and what it asked.

    Every step takes a reply; `Reply()` is the one for a link that was shown, and for a pause.
    """
    asked: list[Step] = []
    left = iter(replies)
    try:
        step = next(steps)
        while True:
            asked.append(step)
            reply = next(left)
            step = steps.send(reply if isinstance(reply, Reply) else Reply(reply))
    except StopIteration as done:
        assert next(left, None) is None, "the flow ended early"
        return done.value, asked


def tools(asked: Sequence[Step]) -> list[str]:
    """The tools that were called; other steps by their names."""
    return [step.tool if isinstance(step, Ask) else type(step).__name__ for step in asked]
