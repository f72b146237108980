"""How does a function get its credential without asking? A decorator fetches it at each call and passes it by keyword.

The argument is the decorator's own: it is gone from the signature that others read, so that no framework asks a model, or an
HTTP client, for a token. Nothing is fetched, and no setting is read, before the first call.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ParamSpec, TypeVar, cast

from mcp_identity.sdk.client import IdentityClient
from mcp_identity.sdk.credential_provider import CredentialProvider
from mcp_identity.sdk.driving import OnAuthUrl
from mcp_identity.sdk.errors import IdentityClientError
from mcp_identity.sdk.tokens import TokenOptions

P = ParamSpec("P")
R = TypeVar("R")
_Given = Callable[[tuple[Any, ...], dict[str, Any], str], tuple[tuple[Any, ...], dict[str, Any]]]


def requires_access_token(
    *,
    provider_name: str,
    scopes: Sequence[str] | None = None,
    auth_flow: str | None = None,
    on_auth_url: OnAuthUrl | None = None,
    callback_url: str | None = None,
    force_authentication: bool = False,
    custom_state: str | None = None,
    custom_parameters: Mapping[str, str] | None = None,
    into: str = "access_token",
    resources: Sequence[str] | None = None,
    audiences: Sequence[str] | None = None,
    wait_seconds: float | None = None,
    workload: str = "",
    client: IdentityClient | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Pass an access token to a function, a coroutine function or a generator of either kind, at each call.

    Args:
        provider_name: The credential provider.
        scopes: What the token must be able to do; None for the provider's own.
        auth_flow: ``M2M``, ``USER_FEDERATION`` or ``ON_BEHALF_OF_TOKEN_EXCHANGE``; None where only one fits.
        on_auth_url: Shows the user the link where they have to agree first; None to write it to the error output.
        callback_url: Where the browser goes at the end; one that is registered for the workload.
        force_authentication: Ask the user anew, whatever is there.
        custom_state: Handed back at the callback URL.
        custom_parameters: Further authorization parameters that the provider lets agents set.
        into: The keyword that the token goes into.
        resources: RFC 8707 resource; one at most.
        audiences: Audience; one at most.
        wait_seconds: How long to wait for the user; None until the link ends, 0 to raise `ConsentRequiredError` at once.
        workload: The workload that this is for; the bearer must be its own.
        client: Who asks; None for the client that the settings describe.

    Raises:
        IdentityClientError: When decorating, if there is more than one resource or audience; when calling, if the token
            cannot be had.
        TypeError: When decorating, if the function has no such keyword.
    """
    provider = CredentialProvider(provider_name, client=client, workload=workload)
    options: TokenOptions = {
        "scopes": scopes,
        "auth_flow": auth_flow,
        "callback_url": callback_url,
        "force_authentication": force_authentication,
        "custom_state": custom_state,
        "custom_parameters": custom_parameters,
        "resource": _only("resources", resources),
        "audience": _only("audiences", audiences),
    }

    def fetch() -> str:
        return provider.get_access_token(on_auth_url=on_auth_url, wait_seconds=wait_seconds, **options)

    async def fetch_async() -> str:
        return await provider.get_access_token_async(on_auth_url=on_auth_url, wait_seconds=wait_seconds, **options)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        return _injecting(function, into, fetch, fetch_async)

    return decorate


def requires_api_key(
    *, provider_name: str, into: str = "api_key", workload: str = "", client: IdentityClient | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Pass an API key to a function, as `requires_access_token` passes a token.

    Args:
        provider_name: The credential provider.
        into: The keyword that the key goes into.
        workload: The workload that this is for; the bearer must be its own.
        client: Who asks; None for the client that the settings describe.

    Raises:
        IdentityClientError: When calling, if the key cannot be had.
        TypeError: When decorating, if the function has no such keyword.
    """
    provider = CredentialProvider(provider_name, client=client, workload=workload)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        return _injecting(function, into, provider.get_api_key, provider.get_api_key_async)

    return decorate


def _injecting(function: Callable[P, R], into: str, fetch: Callable[[], str], fetch_async: Callable[[], Any]) -> Callable[P, R]:
    """The function, with a secret fetched and passed at each call, and gone from the signature that others read."""
    signature = inspect.signature(function)
    place = _place(signature, into)

    def given(args: tuple[Any, ...], kwargs: dict[str, Any], secret: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if len(args) > place:  # what stands behind it was passed by position
            return (*args[:place], secret, *args[place:]), kwargs
        return args, {**kwargs, into: secret}

    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        made = _of_coroutines(function, given, fetch_async)
    else:
        made = _of_plain_code(function, given, fetch)
    others = [parameter for name, parameter in signature.parameters.items() if name != into]
    made.__signature__ = signature.replace(parameters=others)
    made.__annotations__ = {name: each for name, each in made.__annotations__.items() if name != into}
    return cast("Callable[P, R]", made)


def _of_coroutines(function: Any, given: _Given, fetch: Callable[[], Any]) -> Any:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
            args, kwargs = given(args, kwargs, await fetch())
            async with aclosing(function(*args, **kwargs)) as answers:
                async for each in answers:
                    yield each

        return stream

    @functools.wraps(function)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = given(args, kwargs, await fetch())
        return await function(*args, **kwargs)

    return coroutine


def _of_plain_code(function: Any, given: _Given, fetch: Callable[[], str]) -> Any:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            args, kwargs = given(args, kwargs, fetch())
            answers: Generator[Any, Any, Any] = function(*args, **kwargs)
            return (yield from answers)

        return generator

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = given(args, kwargs, fetch())
        return function(*args, **kwargs)

    return plain


def _place(signature: inspect.Signature, into: str) -> int:
    """How many arguments by position go before the secret.

    Raises:
        TypeError: If the function does not take it by keyword.
    """
    parameters = list(signature.parameters.values())
    for place, parameter in enumerate(parameters):
        if parameter.name == into and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            return place
        if parameter.kind is parameter.VAR_KEYWORD or (parameter.name == into and parameter.kind is parameter.KEYWORD_ONLY):
            return sys.maxsize
    raise TypeError(f"the function has no keyword argument {into!r} for its credential; add one, or name another by into")


def _only(what: str, given: Sequence[str] | None) -> str | None:
    if not given:
        return None
    if isinstance(given, str) or len(given) > 1:
        raise IdentityClientError("invalid_target", f"{what} is a list of one: a token is for one at a time")
    return given[0]
