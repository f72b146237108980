"""Who signs in these tests? botocore's own signer, at a time that a test chooses; and what comes over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from mcp_identity.domain.credentials import Secret
from mcp_identity.inbound.sigv4 import SignedRequest

_auth: Any = import_module("botocore.auth")  # it has no types
_requests: Any = import_module("botocore.awsrequest")
_session: Any = import_module("botocore.session")
_config: Any = import_module("botocore.config")
_credentials: Any = import_module("botocore.credentials")
HOST = "127.0.0.1:8000"
URL = f"http://{HOST}"
REGION = "eu-central-1"
KEY_ID = "MID" + "A" * 17
SECRET = "mid_sk_made-up-for-tests"
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
ARN = "arn:aws:bedrock-agentcore:eu-central-1:000000000000:token-vault/default/oauth2credentialprovider/git.hub_1"
PLANES = ("bedrock-agentcore", "bedrock-agentcore-control")
TAGS_AND_POLICIES = frozenset(
    {"TagResource", "UntagResource", "ListTagsForResource", "PutResourcePolicy", "GetResourcePolicy", "DeleteResourcePolicy"}
)


def sign(
    method: str = "POST",
    target: str = "/identities/CreateWorkloadIdentity",
    body: bytes = b'{"name":"billing"}',
    *,
    key_id: str = KEY_ID,
    secret: Secret | str = SECRET,
    at: datetime = NOW,
    region: str = REGION,
    service: str = "bedrock-agentcore",
    url: str = URL,
    token: str | None = None,
    headers: dict[str, str] | None = None,
) -> SignedRequest:
    """A request that botocore signs."""
    given = {"Content-Type": "application/json"} if body and headers is None else headers or {}
    request = _requests.AWSRequest(method, url + target, headers=given, data=body)
    plain = secret.reveal() if isinstance(secret, Secret) else secret
    signer = _auth.SigV4Auth(_credentials.Credentials(key_id, plain, token), service, region)
    request.context["timestamp"] = at.strftime("%Y%m%dT%H%M%SZ")
    signer._modify_request_before_signing(request)
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    signer._inject_signature_to_request(request, signer.signature(to_sign, request))
    return on_the_wire(request.prepare())


def on_the_wire(prepared: Any) -> SignedRequest:
    """What a server gets of a prepared request."""
    parts = urlsplit(str(prepared.url))
    headers = {str(name).lower(): value for name, value in prepared.headers.items()}
    headers.setdefault("host", parts.netloc)
    raw = tuple(
        (name.encode(), value if isinstance(value, bytes) else str(value).encode("latin-1")) for name, value in headers.items()
    )
    body = prepared.body or b""
    return SignedRequest(
        str(prepared.method), parts.path.encode(), parts.query.encode(), raw, body if isinstance(body, bytes) else body.encode()
    )


def client(plane: str, url: str = URL, **given: Any) -> Any:
    """A stock client of one plane."""
    session = _session.Session()
    config = _config.Config(retries={"total_max_attempts": 1, "mode": "standard"})
    keys: dict[str, Any] = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET, "region_name": REGION} | given
    return session.create_client(plane, endpoint_url=url, config=config, **keys)


def operations(plane: str) -> list[Any]:
    """The operations of one plane that have to do with identities."""
    model = client_model(plane)
    found = [model.operation_model(name) for name in model.operation_names]
    return [each for each in found if each.http["requestUri"].startswith("/identities/") or each.name in TAGS_AND_POLICIES]


@cache
def client_model(plane: str) -> Any:
    """The service model that botocore ships."""
    return _session.Session().get_service_model(plane)


@cache
def sent_by_clients(url: str = URL) -> tuple[tuple[str, SignedRequest], ...]:
    """Every identity operation of both planes, as the stock client sends it; `time_of` says when."""
    return tuple(_sent_by_clients(url))


def time_of(request: SignedRequest) -> datetime:
    """When a request was signed."""
    (stamp,) = [value for name, value in request.headers if name == b"x-amz-date"]
    return datetime.strptime(stamp.decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _sent_by_clients(url: str) -> Iterator[tuple[str, SignedRequest]]:
    for plane in PLANES:
        made, caught = client(plane, url), list[Any]()

        def catch(request: Any, caught: list[Any] = caught, **_: Any) -> Any:
            caught.append(request)
            return _requests.AWSResponse(request.url, 200, {}, _Body())

        made.meta.events.register("before-send", catch)
        for operation in operations(plane):
            made._make_api_call(operation.name, least(operation.input_shape))
            yield operation.name, on_the_wire(caught.pop())


class _Body:
    """The body of an answer that says nothing."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield b"{}"


def least(shape: Any, name: str = "") -> Any:  # noqa: PLR0911 - a kind of shape, a line
    """The least that the model asks for: required members alone, the first member of a union."""
    match shape.type_name:
        case "structure":
            members = list(shape.members)[:1] if getattr(shape, "is_tagged_union", False) else shape.required_members
            return {member: least(shape.members[member], member) for member in members}
        case "list":
            return [least(shape.member)]
        case "map":
            return {"key": least(shape.value)}
        case "string":
            return _text(shape, name)
        case "boolean":
            return True
        case "blob":
            return b"blob"
        case _:
            return int(shape.metadata.get("min", 1))


def _text(shape: Any, name: str) -> str:
    if enum := getattr(shape, "enum", None):
        return str(enum[0])
    if name == "resourceArn":
        return ARN
    return "abc".ljust(int(shape.metadata.get("min", 3)), "x")
