"""The client: credentials for agent code, from a server that runs or from one that it starts.

Each verb comes twice, for plain code and, with `_async`, for coroutines; both do the same steps. As whom a call is made follows
from its bearer alone: that of `acting_for`, that of the named workload, the client's own, or `MCP_IDENTITY_WORKLOAD_KEY`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from mcp_identity import __version__
from mcp_identity.domain.errors import ConfigurationError
from mcp_identity.domain.identity import RESOURCE_NAME_RULE, is_resource_name
from mcp_identity.sdk.acting import check_bearer, current_bearer
from mcp_identity.sdk.driving import OnAuthUrl, drive, drive_async
from mcp_identity.sdk.endpoint import Place, Started, Who, remote, started
from mcp_identity.sdk.engine import Engine, close_in_background
from mcp_identity.sdk.errors import NOT_CONFIGURED, IdentityClientError
from mcp_identity.sdk.registration import authorizer_steps, credential_steps
from mcp_identity.sdk.steps import (
    Steps,
    api_key_steps,
    checked_workload,
    completion_steps,
    token_steps,
    tool_steps,
    workload_token_steps,
)
from mcp_identity.sdk.tokens import AccessToken, TokenOptions, wish_of

if TYPE_CHECKING:
    from ssl import SSLContext

    from mcp_identity.settings import Settings

T = TypeVar("T")
_MOST_CHECKED = 1024


class IdentityClient:
    """Talks to one mcp-identity server; safe to share between threads, tasks and event loops.

    Without an address, here or in `MCP_IDENTITY_URL`, it starts a server of its own over stdio at the first call, keeps it, and
    ends it with `close()`, with the block, or with the process.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        tokens: Mapping[str, str] | None = None,
        workload: str = "",
        command: Sequence[str] | None = None,
        ssl_context: SSLContext | None = None,
    ) -> None:
        """Say where the server is; nothing is read or opened before the first call.

        Args:
            url: Its address; None for the setting `MCP_IDENTITY_URL`.
            token: The bearer: a workload key, or any other; None for the setting `MCP_IDENTITY_WORKLOAD_KEY`.
            tokens: The keys of several workloads, by their names.
            workload: The workload that this client is for, where a call names none.
            command: Starts a server over stdio, in place of an address.
            ssl_context: What believes the server's certificate; None for the machine's own store.

        Raises:
            IdentityClientError: If an argument cannot be what it should be.
        """
        if url is not None:
            if command is not None:
                raise IdentityClientError("invalid_request", "a server is at an address or is started; not both")
            remote(url)
        for bearer in (*([token] if token is not None else ()), *(tokens or {}).values()):
            check_bearer(bearer)
        for name in (workload, *(tokens or {})):
            _check_name(name)
        self._url = url
        self._token = token
        self._tokens = dict(tokens or {})
        self._workload = workload
        self._command = tuple(command) if command is not None else None
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._key = ""
        self._checked: dict[tuple[bytes, str], None] = {}

    def __repr__(self) -> str:
        """Where it leads; never a bearer."""
        return f"IdentityClient({self._url or ''!r})"

    def get_token(
        self,
        provider_name: str,
        *,
        on_auth_url: OnAuthUrl | None = None,
        wait_seconds: float | None = None,
        workload: str = "",
        token: str = "",
        **options: Unpack[TokenOptions],
    ) -> AccessToken:
        """Get an access token, with all that is known of it.

        Args:
            provider_name: The credential provider.
            on_auth_url: Shows the user the link where they have to agree first; None to write it to the error output.
            wait_seconds: How long to wait for the user; None until the link ends, 0 to raise `ConsentRequiredError` at once.
            workload: The workload that this is for; the bearer must be its own.
            token: The bearer of this call alone.
            options: What kind of token; see `TokenOptions`.

        Raises:
            ConsentRequiredError: If the user has not agreed in time.
            IdentityClientError: If it cannot be had; the error says what to do.
        """
        wish = wish_of(provider_name, options)
        return self._run(workload, token, lambda who: token_steps(who, wish, wait_seconds), on_auth_url)

    async def get_token_async(
        self,
        provider_name: str,
        *,
        on_auth_url: OnAuthUrl | None = None,
        wait_seconds: float | None = None,
        workload: str = "",
        token: str = "",
        **options: Unpack[TokenOptions],
    ) -> AccessToken:
        """As `get_token`."""
        wish = wish_of(provider_name, options)
        return await self._run_async(workload, token, lambda who: token_steps(who, wish, wait_seconds), on_auth_url)

    def get_api_key(self, provider_name: str, *, workload: str = "", token: str = "") -> str:
        """Get an API key.

        Raises:
            IdentityClientError: If it cannot be had; the error says what to do.
        """
        return self._run(workload, token, lambda who: api_key_steps(who, provider_name))

    async def get_api_key_async(self, provider_name: str, *, workload: str = "", token: str = "") -> str:
        """As `get_api_key`."""
        return await self._run_async(workload, token, lambda who: api_key_steps(who, provider_name))

    def get_workload_access_token(self, *, user_token: str = "", user_id: str = "", workload: str = "", token: str = "") -> str:
        """Get a token that proves this workload and a user; `acting_for` takes it.

        Args:
            user_token: The user's own access token, as your application received it.
            user_id: The user's id, where the workload may name users by an id alone.
            workload: The workload that this is for; the bearer must be its own.
            token: The bearer of this call alone.

        Raises:
            IdentityClientError: If it cannot be had; the error says what to do.
        """
        return self._run(workload, token, lambda who: workload_token_steps(_itself(who, token), user_token, user_id))

    async def get_workload_access_token_async(
        self, *, user_token: str = "", user_id: str = "", workload: str = "", token: str = ""
    ) -> str:
        """As `get_workload_access_token`."""
        return await self._run_async(
            workload, token, lambda who: workload_token_steps(_itself(who, token), user_token, user_id)
        )

    def complete_consent(
        self, session_id: str, *, user_token: str = "", user_id: str = "", workload: str = "", token: str = ""
    ) -> str:
        """Finish a consent that came back to your own application, at its callback URL; how the consent stands then.

        Args:
            session_id: What the browser brought in the query parameter of this name.
            user_token: The token of the user who is signed in in that browser.
            user_id: Their id, where the workload may name users by an id alone.
            workload: The workload that this is for; the bearer must be its own.
            token: The bearer of this call alone.

        Raises:
            IdentityClientError: If it is not this user's, or has ended.
        """
        return self._run(workload, token, lambda who: completion_steps(who, session_id, user_token, user_id))

    async def complete_consent_async(
        self, session_id: str, *, user_token: str = "", user_id: str = "", workload: str = "", token: str = ""
    ) -> str:
        """As `complete_consent`."""
        return await self._run_async(workload, token, lambda who: completion_steps(who, session_id, user_token, user_id))

    def configure_authorizer(
        self, agent_id: str, authorizer_type: str = "jwt", config: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Say whose tokens speak for an agent; the agent and the issuer are registered where they are not yet.

        Args:
            agent_id: The workload's name.
            authorizer_type: ``jwt``.
            config: `discovery_url`, and at least one of `allowed_audience`, `allowed_clients`, `custom_claims`;
                `docs/sdk.md` has all of it.

        Raises:
            IdentityClientError: If it cannot be so; the error says what to do.
        """
        return self._run("", "", lambda who: authorizer_steps(who, agent_id, authorizer_type, config or {}))

    async def configure_authorizer_async(
        self, agent_id: str, authorizer_type: str = "jwt", config: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """As `configure_authorizer`."""
        return await self._run_async("", "", lambda who: authorizer_steps(who, agent_id, authorizer_type, config or {}))

    def store_credential(
        self, agent_id: str, credential_name: str, credential_type: str, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Add a credential provider, or change it, for an agent, which is registered where it is not yet.

        Args:
            agent_id: The workload's name.
            credential_name: The provider's name.
            credential_type: ``oauth`` or ``api_key``.
            config: Of ``oauth`` `client_id`, `client_secret_arn` and `token_url`, or a `vendor`; of ``api_key`` `api_key_arn`.
                A secret is never sent: what stands here is a reference, `env:NAME` or `file:/path`, that the server reads.

        Raises:
            IdentityClientError: If it cannot be so; the error says what to do.
        """
        return self._run("", "", lambda who: self._credential_steps(who, agent_id, credential_name, credential_type, config))

    async def store_credential_async(
        self, agent_id: str, credential_name: str, credential_type: str, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """As `store_credential`."""
        return await self._run_async(
            "", "", lambda who: self._credential_steps(who, agent_id, credential_name, credential_type, config)
        )

    def _credential_steps(self, who: Who, agent: str, name: str, kind: str, config: Mapping[str, Any]) -> Steps[dict[str, Any]]:
        # What is stored by code is for code: models get a handle. Over stdio there is no endpoint to redeem one at.
        release = "token" if isinstance(self._opened().place, Started) else "handle"
        return credential_steps(who, agent, name, kind, config, release)

    def call_tool(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, workload: str = "", token: str = ""
    ) -> dict[str, Any]:
        """Call any tool of the server, e.g. `list_providers`, `call_api` or `revoke_grant`; its structured answer.

        Raises:
            IdentityClientError: If the answer is an error.
        """
        return self._run(workload, token, lambda who: tool_steps(who, name, arguments or {}))

    async def call_tool_async(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, workload: str = "", token: str = ""
    ) -> dict[str, Any]:
        """As `call_tool`."""
        return await self._run_async(workload, token, lambda who: tool_steps(who, name, arguments or {}))

    def close(self) -> None:
        """End the connection, and the server where this client started it."""
        with self._lock:
            engine = self._engine
        if engine is not None:
            engine.close()

    async def aclose(self) -> None:
        """As `close`, without holding up the event loop."""
        import anyio.to_thread

        await anyio.to_thread.run_sync(self.close)

    def __enter__(self) -> Self:
        """Use it while the block lasts."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End it."""
        self.close()

    async def __aenter__(self) -> Self:
        """Use it while the block lasts."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        await self.aclose()

    def _run(self, workload: str, token: str, steps: Callable[[Who], Steps[T]], on_auth_url: OnAuthUrl | None = None) -> T:
        engine = self._opened()
        who = self._who(engine, workload, token)
        return drive(self._checking(who, steps(who)), engine, on_auth_url)

    async def _run_async(
        self, workload: str, token: str, steps: Callable[[Who], Steps[T]], on_auth_url: OnAuthUrl | None = None
    ) -> T:
        engine = self._engine
        if engine is None:  # the settings, and what reads them, are loaded off the caller's loop
            import anyio.to_thread

            engine = await anyio.to_thread.run_sync(self._opened)
        who = self._who(engine, workload, token)
        return await drive_async(self._checking(who, steps(who)), engine, on_auth_url)

    def _checking(self, who: Who, steps: Steps[T]) -> Steps[T]:
        """The steps, once it is known that the bearer is the named workload's."""
        key = (sha256(who.bearer.encode()).digest(), who.workload)
        if who.workload and key not in self._checked:
            yield from checked_workload(who)
            if len(self._checked) >= _MOST_CHECKED:
                self._checked.clear()
            self._checked[key] = None
        return (yield from steps)

    def _who(self, engine: Engine, workload: str, token: str) -> Who:
        """As whom a call is made, out of what is said here and around it.

        Raises:
            IdentityClientError: If that is contradictory.
        """
        _check_name(workload)
        name = workload or self._workload
        bearer = token or current_bearer()
        if bearer:
            check_bearer(bearer)
        if isinstance(engine.place, Started):
            if bearer:
                raise IdentityClientError(
                    "invalid_request",
                    "a server that this client starts itself serves this machine's user alone, and no bearers",
                    remedy="Set MCP_IDENTITY_URL to a server over HTTP to act for others.",
                )
            return Who("", "", name)
        key = self._tokens.get(name) or self._key
        return Who(bearer or key, key, name)

    def _opened(self) -> Engine:
        """What does the calls; where the server is, is read at the first of them.

        Raises:
            IdentityClientError: If the settings do not stand.
        """
        with self._lock:
            if self._engine is None:
                settings = _settings()
                place, self._key = self._place(settings), self._token or settings.workload_key
                if self._key:
                    check_bearer(self._key)
                self._engine = Engine(place, __version__)
                weakref.finalize(self, close_in_background, self._engine).atexit = False
            return self._engine

    def _place(self, settings: Settings) -> Place:
        url = self._url or settings.url
        if self._command is None and url:
            return remote(url, self._ssl_context)
        from mcp_identity.settings import environment_for_server

        return started(self._command, environment_for_server())


def _itself(who: Who, token: str) -> Who:
    """The workload itself, for whomever the code acts: nobody who came for a user gets such a token."""
    return replace(who, bearer=token or who.key or who.bearer)


def _settings() -> Settings:
    from mcp_identity.settings import load_settings

    try:
        return load_settings()
    except ConfigurationError as error:
        raise IdentityClientError(NOT_CONFIGURED, error.message) from None


def _check_name(name: str) -> None:
    if name and not is_resource_name(name):
        raise IdentityClientError("invalid_request", f"a workload's name does not fit: {RESOURCE_NAME_RULE}")
