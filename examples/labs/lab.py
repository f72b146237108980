# pyright: basic
# boto3 makes its clients at run time and carries no types.
"""What is in a lab? Our server, an operator's access key, a vendor's authorization server and API, and a person's browser."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from agent_backend import serving
from botocore.exceptions import ClientError
from browser import Browser
from stock import CONTROL, DATA, AccessKey
from world import World, console, free_port, new_secret, notes_client

RETURN_URL = "http://127.0.0.1:9/connected"
"""Where the application would receive browsers; in a lab the browser stops there, and the lab reads the address."""
INBOUND, OUTBOUND, BUSY, CARELESS = AGENTS = ("inbound-agent", "outbound-agent", "busy-agent", "careless-agent")
SOMEBODY_ELSES = "somebody-elses-agent"
WEATHER_KEY = "weather-key-of-today"


@dataclass(frozen=True)
class Lab:
    """Everything of a lab.

    Attributes:
        world: The folder, and our command line.
        endpoint: Our server.
        operator: An operator's access key.
        key: The agents' access key.
        vendor: The vendor's authorization server.
        vendor_secret: The secret of both of our clients there.
        weather: An API that takes a key.
    """

    world: World
    endpoint: str
    operator: AccessKey
    key: AccessKey
    vendor: dict[str, Any]
    vendor_secret: str
    weather: str

    @cached_property
    def control(self) -> Any:
        """The operator's client of the control plane."""
        return self.operator.client(CONTROL)

    @cached_property
    def data(self) -> Any:
        """The agents' client of the data plane."""
        return self.key.client(DATA)

    def add_oauth_provider(self, name: str, client_id: str, secret: str = "") -> None:
        """A provider at the vendor, by stock boto3."""
        metadata = {
            "issuer": self.vendor["issuer"],
            "authorizationEndpoint": self.vendor["authorization_url"],
            "tokenEndpoint": self.vendor["token_url"],
        }
        block = {
            "oauthDiscovery": {"authorizationServerMetadata": metadata},
            "clientId": client_id,
            "clientSecret": secret or self.vendor_secret,
        }
        self.control.create_oauth2_credential_provider(
            name=name,
            credentialProviderVendor="CustomOauth2",
            oauth2ProviderConfigInput={"customOauth2ProviderConfig": block},
        )

    def notes_of(self, token: str) -> str:
        """What the vendor's API says to a token."""
        answer = httpx2.get(self.vendor["me_url"], headers={"Authorization": f"Bearer {token}"}, timeout=30)
        about = answer.json() if answer.is_success else {}
        return f"{answer.status_code} {about.get('username') or about.get('client') or ''}".strip()

    def weather_with(self, key: str) -> str:
        """What the weather's API says to a key."""
        answer = httpx2.get(self.weather, headers={"X-Api-Key": key}, timeout=30)
        return f"{answer.status_code} {answer.text}"


def token_of(agent: Any, wat: str, provider: str, flow: str, **more: Any) -> dict[str, Any]:
    """Ask for a token, as the SDK does."""
    return agent.get_resource_oauth2_token(
        workloadIdentityToken=wat, resourceCredentialProviderName=provider, scopes=["read"], oauth2Flow=flow, **more
    )


def agree(url: str, person: str = "alice", password: str = "wonderland") -> str:  # noqa: S107 - the demonstration's own
    """Go through a consent in a browser of one's own; the `session_id` that it brings back to the application."""
    with Browser(stop_at=RETURN_URL) as browser:
        page = browser.consent(url, username=person, password=password)
        return parse_qs(urlsplit(page.url).query)["session_id"][0]


def refused(call: Callable[[], Any]) -> str:
    """What the service says to a call that it refuses: the code, and the sentence that says what to do."""
    try:
        call()
    except ClientError as error:
        said = error.response["Error"]
        return f"{error.response['ResponseMetadata']['HTTPStatusCode']} {said['Code']}: {said['Message']}"
    raise SystemExit("nothing was refused")


def say(label: str, value: object) -> None:
    """Show one thing that came out."""
    console.print(f"   {label}: [bold]{value}[/]", soft_wrap=True)


@contextlib.contextmanager
def opened(folder: Path, before: Callable[[World], None] = lambda _: None) -> Generator[Lab]:
    """Run everything, until the block ends.

    Args:
        folder: For everything that is kept meanwhile.
        before: Is done before our server starts.
    """
    port, vendor_port, secret = free_port(), free_port(), new_secret()
    world = World.below(folder, MCP_IDENTITY_PUBLIC_URL=f"http://127.0.0.1:{port}")
    operator = AccessKey.create(world, f"http://127.0.0.1:{port}", "--role", "admin")
    before(world)
    with serving(world, "http", port, "--allow-http-loopback") as endpoint, _weather() as weather:
        # The vendor wants to know our callback URL, which there is once the provider is.
        lab = Lab(world, endpoint, operator, _agents(world, operator), _vendor_at(vendor_port), secret, weather)
        lab.add_oauth_provider("notes", "notes-app")
        lab.add_oauth_provider("reports", "reports-app")
        found = lab.control.get_oauth2_credential_provider(name="notes")
        registered = [
            notes_client(found["callbackUrl"], secret),
            {"client_id": "reports-app", "client_secret": secret, "grant": "client-credentials"},
        ]
        with world.vendor(vendor_port, registered):
            yield lab


def close(lab: Lab) -> None:
    """Remove everything, as an operator does, and look what is left."""
    for kind in ("oauth2", "api_key"):
        listed = getattr(lab.control, f"list_{kind}_credential_providers")()["credentialProviders"]
        for provider in listed:
            getattr(lab.control, f"delete_{kind}_credential_provider")(name=provider["name"])
    for workload in lab.control.list_workload_identities()["workloadIdentities"]:
        lab.control.delete_workload_identity(name=workload["name"])
    for key in (lab.key, lab.operator):
        lab.world.cli("access-keys", "remove", key.id)
    say("secrets left in the vault", sum(lab.world.secrets_left().values()))


def _agents(world: World, operator: AccessKey) -> AccessKey:
    """The labs' agents, and one that is none of theirs; the access key that stands for the former."""
    control = operator.client(CONTROL)
    for name in (*AGENTS, SOMEBODY_ELSES):
        control.create_workload_identity(name=name, allowedResourceOauth2ReturnUrls=[RETURN_URL])
    named = [option for name in AGENTS for option in ("--workload", name)]
    return AccessKey.create(world, operator.endpoint, "--role", "workload", *named, "--may-assert-users")


def _vendor_at(port: int) -> dict[str, Any]:
    origin = f"http://127.0.0.1:{port}"
    return {
        "issuer": origin,
        "authorization_url": f"{origin}/o/authorize/",
        "token_url": f"{origin}/o/token/",
        "me_url": f"{origin}/api/me",
    }


class _Weather(BaseHTTPRequestHandler):
    """Says the weather to whoever has the key."""

    def do_GET(self) -> None:
        """Answer."""
        known = self.headers.get("X-Api-Key") == WEATHER_KEY
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b"sunny" if known else b"invalid key")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


@contextlib.contextmanager
def _weather() -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Weather) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
