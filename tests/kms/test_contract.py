"""What every key backend does: it gives back what it wrapped, for the same context alone, and says nothing else."""

from __future__ import annotations

from dataclasses import replace

import anyio
import anyio.to_thread
import pytest

from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.kms.backend import KeyBackend, WrapContext
from tests.fakes.clock import SystemEntropy
from tests.kms.backends import KINDS, Maker, maker

CONTEXT = WrapContext("vault-1", "acme", 3, "tenant")
CONTEXTS = (
    CONTEXT,
    replace(CONTEXT, vault_id="vault-2"),
    replace(CONTEXT, tenant="acm"),
    replace(CONTEXT, tenant=""),
    replace(CONTEXT, version=4),
    replace(CONTEXT, version=33),
    replace(CONTEXT, purpose="vault"),
    replace(CONTEXT, tenant="", purpose="check"),
    replace(CONTEXT, vault_id="vault-1acme", tenant=""),
)
KEY = SystemEntropy().random_bytes(32)


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Maker:
    return maker(request.param, request)


@pytest.fixture
def backend(make: Maker) -> KeyBackend:
    return make("vault")


def test_what_was_wrapped_is_unwrapped_for_each_context_and_for_no_other(backend: KeyBackend) -> None:
    for context in CONTEXTS:
        wrapped = backend.wrap(KEY, context)
        assert KEY not in wrapped
        for other in CONTEXTS:
            if other == context:
                assert backend.unwrap(wrapped, other) == KEY
                continue
            with pytest.raises(VaultCorrupt) as caught:
                backend.unwrap(wrapped, other)
            assert caught.value.code == "vault_corrupt"


def test_another_key_of_the_same_backend_opens_nothing(make: Maker) -> None:
    one, other = make("vault"), make("other")
    assert one.key_id != other.key_id
    wrapped = one.wrap(KEY, CONTEXT)
    with pytest.raises(VaultCorrupt) as caught:
        other.unwrap(wrapped, CONTEXT)
    assert caught.value.code == "vault_corrupt"


def test_a_second_process_with_the_same_key_opens_it(make: Maker) -> None:
    one, other = make("vault"), make("vault")
    assert one.key_id == other.key_id
    assert other.unwrap(one.wrap(KEY, CONTEXT), CONTEXT) == KEY


def test_what_was_changed_or_is_no_wrapped_key_is_corrupt(backend: KeyBackend) -> None:
    wrapped = backend.wrap(KEY, CONTEXT)
    middle = len(wrapped) // 2
    strange = [
        b"",
        b"\x00",
        wrapped[:-1],
        wrapped[:11],
        wrapped[:28],
        wrapped + b"\x00",
        bytes(len(wrapped)),
        b"\xff" * 40,
        b"vault:v1:",
        b"vault:v99999:AAAA",
        "wrapped".encode("utf-16"),
        wrapped[:middle] + bytes([wrapped[middle] ^ 1]) + wrapped[middle + 1 :],
    ]
    for changed in strange:
        with pytest.raises(VaultCorrupt) as caught:
            backend.unwrap(changed, CONTEXT)
        assert caught.value.code == "vault_corrupt"
    assert backend.unwrap(wrapped, CONTEXT) == KEY


def test_no_two_wraps_are_the_same(backend: KeyBackend) -> None:
    assert len({backend.wrap(KEY, CONTEXT) for _ in range(8)}) == 8


def test_a_rewrapped_key_is_the_same_key_for_the_same_context(backend: KeyBackend) -> None:
    again = backend.rewrap(backend.wrap(KEY, CONTEXT), CONTEXT)
    assert backend.unwrap(again, CONTEXT) == KEY
    with pytest.raises(VaultCorrupt) as caught:
        backend.rewrap(again, CONTEXTS[1])
    assert caught.value.code == "vault_corrupt"


async def test_many_threads_may_use_one_backend(backend: KeyBackend) -> None:
    found: list[bool] = []

    def turn(number: int) -> None:
        context = replace(CONTEXT, version=number + 1)
        key = SystemEntropy().random_bytes(32)
        found.append(backend.unwrap(backend.wrap(key, context), context) == key)

    async with anyio.create_task_group() as group:
        for number in range(16):
            group.start_soon(anyio.to_thread.run_sync, turn, number)
    assert found == [True] * 16
