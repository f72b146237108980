"""How often is the key backend asked, what happens while it is down, and what becomes of a load that raced with a change?"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.from_thread
import pytest

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.errors import ConfigurationError, IdentityError, VaultCorrupt, VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.key_loading import PAUSE_SECONDS
from mcp_identity.vault.keys import CACHE_SECONDS, KeyRing
from mcp_identity.vault.kms.backend import KeyBackend, WrapContext
from mcp_identity.vault.kms.local import LocalKey
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.vault.test_records_authority import issuer

Opener = Callable[[], Vault]
EVENT = AuditEvent(DEFAULT_TENANT, "", "", "", "", verified=True, edge="cli", action="rotate_key")


class Remote:
    """A key backend on another machine.

    Attributes:
        unwrapped: The tenant of each unwrapping that was asked for.
        failure: What it fails with, until it is None again.
        during: Called once while it unwraps, as somebody else who acts at the same time.
    """

    def __init__(self, inner: KeyBackend) -> None:
        self.inner = inner
        self.unwrapped: list[str] = []
        self.failure: IdentityError | None = None
        self.during: Callable[[], object] | None = None

    @property
    def key_id(self) -> str:
        return self.inner.key_id

    def wrap(self, key: bytes, context: WrapContext) -> bytes:
        self._fail()
        return self.inner.wrap(key, context)

    def unwrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        self.unwrapped.append(context.tenant)
        self._fail()
        during, self.during = self.during, None
        if during is not None:
            during()
        return self.inner.unwrap(wrapped, context)

    def rewrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        return self.inner.rewrap(wrapped, context)

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def ring_of(vault: Vault) -> KeyRing:
    return vault._ring  # pyright: ignore[reportPrivateUsage]


def remote(vault: Vault) -> Remote:
    """Put the vault's key on another machine."""
    made = Remote(ring_of(vault).backend)
    ring_of(vault).backend = made
    return made


def is_there(records: Records) -> bool:
    return records.has_tenant("acme")


def is_served(records: Records) -> bool:
    """What needs the default tenant's key alone."""
    return records.has_tenant(DEFAULT_TENANT)


@pytest.fixture
async def one(opener: Opener) -> Vault:
    """A process that made another tenant."""
    vault = opener()
    await vault.ensure_tenant("acme")
    return vault


@pytest.fixture
def other(one: Vault, opener: Opener) -> Vault:
    """Another process, which has not needed that tenant's key yet."""
    del one
    return opener()


async def many(vault: Vault) -> list[object]:
    """Sixty-four callers at once, who need the tenant's key; what each of them got."""
    found: list[object] = []

    async def turn(number: int) -> None:
        try:
            found.append(await (vault.run if number % 2 else vault.read)(is_there))
        except IdentityError as error:
            found.append(error.code)

    async with anyio.create_task_group() as group:
        for number in range(64):
            group.start_soon(turn, number)
    return found


async def test_many_calls_unwrap_once_and_a_change_of_the_configuration_costs_nothing(other: Vault, clock: FakeClock) -> None:
    backend = remote(other)
    for _ in range(3):
        assert await many(other) == [True] * 64
    assert backend.unwrapped == ["acme"]
    for name in ("a", "b"):
        await other.run(lambda records, name=name: records.insert_issuer(issuer(name), None))
        assert await many(other) == [True] * 64
    assert backend.unwrapped == ["acme"]
    clock.advance(CACHE_SECONDS + 1)
    assert await many(other) == [True] * 64
    assert sorted(backend.unwrapped) == ["acme", "acme"]


async def test_what_is_unwrapped_serves_while_the_backend_is_down_and_then_says_so(other: Vault, clock: FakeClock) -> None:
    backend = remote(other)
    assert await other.run(is_there)
    backend.failure = VaultUnavailable("the key backend cannot be reached now")
    clock.advance(CACHE_SECONDS - 1)
    assert await many(other) == [True] * 64
    clock.advance(2)
    asked = len(backend.unwrapped)
    assert await many(other) == ["vault_unavailable"] * 64
    assert len(backend.unwrapped) == asked + 1
    with pytest.raises(VaultUnavailable) as caught:
        await other.run(is_there)
    assert caught.value.retryable
    backend.failure = None
    clock.advance(PAUSE_SECONDS)
    assert await many(other) == [True] * 64
    assert other.ready


async def test_a_backend_that_refuses_us_while_we_serve_stops_no_process(other: Vault) -> None:
    backend = remote(other)
    backend.failure = ConfigurationError("the key backend AWS KMS refuses: DisabledException")
    with pytest.raises(VaultUnavailable) as caught:
        await other.run(is_there)
    assert (caught.value.code, caught.value.retryable) == ("vault_unavailable", False)
    for step in (lambda: other.ensure_tenant("new"), lambda: other.key_life().rotate("acme", EVENT)):
        with pytest.raises(VaultUnavailable) as refused:
            await step()
        assert refused.value.code == "vault_unavailable"
    assert await other.run(is_served)


async def test_a_tenant_that_waits_for_the_backend_keeps_no_other_waiting(one: Vault, other: Vault) -> None:
    backend, asked, answered = remote(other), anyio.Event(), anyio.Event()
    await one.ensure_tenant("slow")

    def wait() -> None:
        anyio.from_thread.run_sync(asked.set)
        anyio.from_thread.run(answered.wait)

    backend.during = wait
    found: list[bool] = []

    async def slow() -> None:
        found.append(await other.run(lambda records: records.has_tenant("slow")))

    async with anyio.create_task_group() as group:
        for _ in range(50):  # more than there are threads for everything else
            group.start_soon(slow)
        await asked.wait()
        assert await other.run(is_served)
        assert await other.read(is_there)
        assert not found
        answered.set()
    assert found == [True] * 50
    assert backend.unwrapped.count("slow") == 1


async def test_a_load_that_raced_with_a_rotation_keeps_no_stale_key(one: Vault, other: Vault) -> None:
    backend = remote(other)

    def rotate() -> None:
        anyio.from_thread.run(one.key_life().rotate, "acme", EVENT)
        anyio.from_thread.run(other.run, is_served)  # its writer sees the new epoch

    backend.during = rotate
    assert await other.run(is_there)
    newest = (await other.key_life().status("acme")).tenants["acme"][-1]
    assert newest.version == 2
    rows = await other.read(lambda records: records.list_keys("acme"))
    assert ring_of(other).current("acme").id.hex() == rows[-1].key.id


async def test_a_load_that_raced_with_an_erasure_opens_nothing(one: Vault, other: Vault) -> None:
    backend = remote(other)

    def erase() -> None:
        anyio.from_thread.run(one.key_life().erase, "acme", EVENT)
        anyio.from_thread.run(other.run, is_served)

    backend.during = erase
    for run in (other.run, other.read):
        with pytest.raises(VaultCorrupt) as caught:
            await run(is_there)
        assert "was erased" in caught.value.message


async def test_after_a_move_others_go_on_with_what_they_have_and_then_ask_for_a_restart(
    one: Vault, other: Vault, clock: FakeClock
) -> None:
    assert await other.run(is_there)
    target = LocalKey(SystemEntropy().random_bytes(32), SystemEntropy())
    assert await one.key_life().move(target, EVENT) == 3
    await one.run(lambda records: records.insert_issuer(issuer(), None))
    assert await many(other) == [True] * 64
    with pytest.raises(VaultUnavailable) as refused:
        await other.ensure_tenant("new")
    assert "restart" in refused.value.message
    assert await one.key_life().rotate("acme", EVENT) == 2
    clock.advance(CACHE_SECONDS + 1)
    with pytest.raises(VaultUnavailable) as caught:
        await other.run(is_there)
    assert (caught.value.retryable, "restart" in caught.value.message) == (False, True)
    assert await one.run(is_there)


async def test_a_move_to_a_backend_that_fails_changes_nothing(one: Vault, opener: Opener) -> None:
    target = Remote(LocalKey(SystemEntropy().random_bytes(32), SystemEntropy()))
    target.failure = VaultUnavailable("the key backend cannot be reached now")
    with pytest.raises(VaultUnavailable):
        await one.key_life().move(target, EVENT)

    def fail() -> None:
        target.failure = VaultUnavailable("the key backend cannot be reached now")

    target.failure, target.during = None, fail  # it goes away in the middle
    with pytest.raises(VaultUnavailable):
        await one.key_life().move(target, EVENT)
    again = opener()
    assert await again.run(is_there)
    assert (await again.key_life().status()).coming_key_id == target.key_id
    target.failure = None
    assert await again.key_life().move(target, EVENT) == 3
    assert (await again.key_life().status()).coming_key_id == ""


async def test_a_key_that_is_made_while_the_vault_moves_moves_too(one: Vault, other: Vault) -> None:
    target = Remote(LocalKey(SystemEntropy().random_bytes(32), SystemEntropy()))
    target.during = lambda: anyio.from_thread.run(other.ensure_tenant, "new")
    assert await one.key_life().move(target, EVENT) == 4
    keys = await one.read(lambda records: records.list_keys())
    assert {each.key.backend_key_id for each in keys} == {target.key_id}
