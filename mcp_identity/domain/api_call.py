"""What is a call of somebody else's API: what is asked, what may be sent along, and what comes back.

Values and rules; nothing is sent here. What an agent writes is trusted for nothing: a method, a header or a parameter that
is not on a list is refused, and whatever carries a credential is ours alone to set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from mcp_identity.domain.api_url import ApiUrl, parse_api_url, path_matches, same_path
from mcp_identity.domain.errors import InvalidRequest, UrlRefused, clean_text
from mcp_identity.domain.http import Method
from mcp_identity.domain.provider import Api, AuthorizationServer

MAXIMUM_BODY_BYTES = 10 * 1024 * 1024
"""Of a request, and of what is read of an answer."""
MAXIMUM_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Methods that may be sent again (RFC 9110 §9.2.2)."""
METHODS: tuple[Method, ...] = get_args(Method)

REQUEST_HEADERS = frozenset(
    {
        "accept", "accept-language", "content-type", "if-match", "if-modified-since", "if-none-match", "if-range",
        "if-unmodified-since", "prefer", "range",
    }
)  # fmt: skip
"""What an agent may send to every API."""
RESPONSE_HEADERS = frozenset(
    {
        "content-language", "content-location", "content-range", "content-type", "date", "deprecation", "etag", "expires",
        "last-modified", "link", "location", "preference-applied", "ratelimit", "ratelimit-limit", "ratelimit-policy",
        "ratelimit-remaining", "ratelimit-reset", "request-id", "retry-after", "sunset", "x-correlation-id",
        "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-ratelimit-used", "x-request-id",
    }
)  # fmt: skip
"""What an agent is told of every answer: nothing that sets cookies, and nothing that carries a challenge."""
_CREDENTIALS = re.compile(
    r"(?:proxy-)?authorization|cookie2?|(?:x-)?(?:[a-z-]*-)?(?:api-?key|apikey|auth-token|access-token|token|secret|session|key)"
)
"""Headers that carry credentials somewhere, for the message; what is not on the list is refused anyway."""
_QUERY_CREDENTIALS = frozenset({"access_token", "oauth_token"})  # RFC 6750 §2.3, and what came before it
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_VALUE = re.compile(r"[ -~]{1,4096}")
_MAXIMUM_HEADERS = 32


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """What an agent wants to ask of an API; nothing of it is checked yet.

    Attributes:
        provider: The credential provider's name.
        method: The method.
        url: The absolute URL, or empty.
        path: Or the path, at the customer's own API host, else at the provider's first.
        query: Further parameters.
        headers: Request headers.
        body: The body.
        scopes: What the credential must be good for; empty for the provider's own.
        flow: How the token is obtained, where the provider offers several ways.
        resource: RFC 8707 resource of the grant, or empty.
        audience: Audience of the grant, or empty.
        elicits: The caller's client can show a link by URL-mode elicitation.
    """

    provider: str
    method: str = "GET"
    url: str = ""
    path: str = ""
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes | None = field(default=None, repr=False)
    scopes: tuple[str, ...] = ()
    flow: str = ""
    resource: str = ""
    audience: str = ""
    elicits: bool = False


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """What an API answered. All of it comes from outside: it is data, and nobody's instruction.

    Attributes:
        provider: The credential provider's name.
        url: The address that answered, without its query.
        status: The HTTP status.
        headers: Those that agents are told, in lower case.
        text: The body, if it is text: control, bidirectional and tag characters removed.
        data: Or the body as it came.
        media_type: What the body is said to be.
        is_cut: There was more of it than is read.
        echoed: The credential stood in it, and was replaced.
        is_withheld: The credential stood in a body that is no text, which is therefore left out.
        renewed: The credential was refused (401) and has been renewed; the request was not repeated.
    """

    provider: str
    url: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    text: str | None = field(default=None, repr=False)
    data: bytes | None = field(default=None, repr=False)
    media_type: str = ""
    is_cut: bool = False
    echoed: bool = False
    is_withheld: bool = False
    renewed: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """What policy and the trail are told of a request: never the query, the headers or the body.

    Attributes:
        method: The method.
        host: The API host; empty where only the grant will tell.
        path: The path, exactly as it will be sent.
    """

    method: str
    host: str
    path: str


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a provider's credential may go, and how.

    Attributes:
        api: The vendor's facts.
        hosts: The exact origins.
        server: Its authorization server, whose endpoints are no API.
        allow_http_loopback: Hosts may be http on loopback addresses.
    """

    api: Api
    hosts: tuple[str, ...]
    server: AuthorizationServer
    allow_http_loopback: bool

    def read(self, request: ApiRequest, customer: str = "") -> ApiUrl | None:
        """The address that a request names; None for a path whose host only the grant can tell.

        Args:
            request: What was asked.
            customer: The customer's own host, where the grant fixed one.

        Raises:
            InvalidRequest: If url and path are both given, or neither, or a parameter carries a credential.
            UrlRefused: If it is not a URL that everybody reads in the same way.
        """
        if bool(request.url) == bool(request.path):
            raise InvalidRequest("give either url, the whole URL, or path, which begins with a slash")
        text = request.url
        if request.path:
            if not request.path.startswith("/"):
                raise InvalidRequest("path begins with a slash; url is the whole URL")
            if not self.hosts and not customer:
                return None
            text = (customer or self.hosts[0]) + request.path
        url = parse_api_url(text, http=self.allow_http_loopback)
        if request.query:
            url = url.with_query(request.query)
        self.check_query(url)
        return url

    def check_query(self, url: ApiUrl) -> None:
        """Let an address pass that carries no credential.

        Raises:
            InvalidRequest: If a parameter does.
        """
        own = {self.api.key_name.lower()} if self.api.key_placement == "query" else frozenset[str]()
        carrying = (_QUERY_CREDENTIALS | own) & url.parameter_names
        if carrying:
            raise InvalidRequest(f"the query parameter {min(carrying)} carries a credential; the server adds it by itself")

    def check(self, method: str, url: ApiUrl, customer: str = "") -> None:
        """Let a request pass, if its address is one of an API and gives no credentials away.

        Raises:
            UrlRefused: If the host is not one of the provider's, or the path belongs to the authorization server.
        """
        hosts = self._hosts(customer)
        if not hosts:
            raise UrlRefused(
                "it is not configured which API hosts this credential may go to; an operator has to say --api-host"
            )
        if url.origin not in hosts:
            raise UrlRefused(f"the URL's host is none of this provider's API hosts: {', '.join(hosts)}")
        server = self.server
        for endpoint in (server.authorization_url, server.token_url, server.refresh_url, server.revocation_url):
            if endpoint and _is_endpoint(endpoint, url):
                raise UrlRefused("the URL is an endpoint of the authorization server, which only this server talks to")
        if any(path_matches(pattern, method, url.path) for pattern in self.api.refused_paths):
            raise UrlRefused("the URL is one that issues or ends credentials, which call_api does not do")

    def require_hosts(self, customer: str = "") -> None:
        """See to it that there is any API host.

        Raises:
            UrlRefused: If nobody said which.
        """
        if not self._hosts(customer):
            raise UrlRefused(
                "it is not configured which API hosts this credential may go to; an operator has to say --api-host"
            )

    def headers(self, given: Sequence[tuple[str, str]], body: bytes | None, *, has_key: bool) -> dict[str, str]:
        """The request headers to send, the credential not among them.

        Args:
            given: As the agent wrote them.
            body: The body; without a type it is given one.
            has_key: The credential is an API key, which may have a header of its own.

        Raises:
            InvalidRequest: If one is not on the list, malformed, or named twice.
        """
        allowed = REQUEST_HEADERS | {name.lower() for name in self.api.request_headers}
        own = self.api.key_name.lower() if has_key and self.api.key_placement == "header" else "authorization"
        found: dict[str, str] = {}
        if len(given) > _MAXIMUM_HEADERS:
            raise InvalidRequest(f"more than {_MAXIMUM_HEADERS} request headers")
        for name, value in given:
            lower = name.lower()
            if lower == own or (lower not in allowed and _CREDENTIALS.fullmatch(lower)):
                raise InvalidRequest(f"the header {_named(name)} carries a credential; leave it out, the server adds its own")
            if lower not in allowed:
                raise InvalidRequest(
                    f"the header {_named(name)} is not sent to this API; it takes: {', '.join(sorted(allowed))}"
                )
            if lower in {each.lower() for each in found}:
                raise InvalidRequest(f"the header {_named(name)} is given twice")
            if not _HEADER_VALUE.fullmatch(value):
                raise InvalidRequest(f"the header {_named(name)} has a value that is empty, too long, or not plain ASCII")
            found[name] = value
        if body is not None and "content-type" not in {name.lower() for name in found}:
            found["Content-Type"] = "application/json" if _looks_like_json(body) else "text/plain; charset=utf-8"
        return found

    def response_headers(self, received: Mapping[str, str]) -> dict[str, str]:
        """Those of an answer's headers that an agent is told."""
        allowed = RESPONSE_HEADERS | {name.lower() for name in self.api.response_headers}
        return {name: value for name, value in received.items() if name in allowed}

    def may_repeat(self, method: str) -> bool:
        """Whether a request that was answered with 401 may be sent again."""
        return method in IDEMPOTENT or self.api.unauthorized_means_unprocessed

    def _hosts(self, customer: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.hosts, customer) if customer else self.hosts))


def check_method(method: str) -> Method:
    """The method, in capitals.

    Raises:
        InvalidRequest: If it is none that call_api sends.
    """
    for known in METHODS:
        if known == method.upper():
            return known
    raise InvalidRequest(f"the method is one of: {', '.join(METHODS)}")


def _is_endpoint(endpoint: str, url: ApiUrl) -> bool:
    try:
        found = parse_api_url(endpoint, http=True)
    except UrlRefused:  # one that is written in a way that call_api does not take, and therefore cannot be asked for
        return False
    return found.origin == url.origin and same_path(found.path, url.path)


def _looks_like_json(body: bytes) -> bool:
    return body.lstrip()[:1] in (b"{", b"[")


def _named(name: str) -> str:
    """A header's name, for a message; what cannot be one is not repeated."""
    return clean_text(name) if _HEADER_NAME.fullmatch(name) else "(malformed)"
