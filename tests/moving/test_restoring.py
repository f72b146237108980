"""Does a vault come back as it was, only where nothing is, and is nothing that was ended silently alive again?

Covers: A33, A34
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcp_identity.app import moving
from mcp_identity.domain.credentials import GrantState, Reason
from mcp_identity.domain.errors import ConfigurationError, Conflict, IdentityError, VaultCorrupt, VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.moving.settling import EPOCHS
from mcp_identity.vault.records import Records
from mcp_identity.vault.writer import SCHEMA_VERSION
from tests.broker.kit import running_product
from tests.fakes.authorization_server import FakeAuthorizationServer
from tests.fakes.clock import FakeClock
from tests.moving.kit import DATABASES, EITHER, Somewhere, Watching, new_database, nobody, without_trail
from tests.vault.kit import ALICE, digest

PLAIN = moving.Wish()
SETTLED = {"consent_sessions", "login_transactions", "releases", "approvals", "workload_identities", "vault_state"}
"""The tables in which something always ends."""


@pytest.fixture
def archive(here: Somewhere, tmp_path: Path) -> Path:
    """A backup of the vault."""
    moving.back_up(here.settings, tmp_path / "archive", None, nobody)
    return tmp_path / "archive"


@pytest.mark.parametrize("kind", DATABASES)
def test_a_vault_comes_back_but_for_what_must_not(here: Somewhere, archive: Path, kind: str, tmp_path: Path) -> None:
    restored = here.at(new_database(kind, tmp_path))
    report = moving.restore(restored.settings, archive, PLAIN, nobody)
    before, after = without_trail(here.rows()), without_trail(restored.rows())
    assert {name for name in before if before[name] != after[name]} == SETTLED
    assert report.findings.unreadable == {}
    assert (report.findings.active, report.findings.refreshable) == (1, 1)
    assert report.settled.detail() == {"consents": "1", "sign_ins": "2", "handles": "1", "workloads": "2"}
    assert after["login_transactions"] == after["approvals"] == after["releases"] == []
    assert [row[7] for row in after["consent_sessions"]] == ["expired"]
    (action, outcome, detail) = restored.trail()[-1]
    assert (action, outcome) == ("restore_vault", "ok")
    assert json.loads(detail).keys() == {"source", "archive_of", "consents", "sign_ins", "handles", "workloads"}
    vault = restored.open()
    assert vault.configuration_epoch > EPOCHS
    vault.close()


@pytest.mark.parametrize("kind", DATABASES)
async def test_what_an_operator_says_has_ended_is_ended(here: Somewhere, archive: Path, kind: str, tmp_path: Path) -> None:
    restored = here.at(new_database(kind, tmp_path))
    report = moving.restore(restored.settings, archive, moving.Wish(end_bearers=True, ask_again=True), nobody)
    assert (report.settled.workload_keys, report.settled.users, report.settled.grants) == (1, 2, 1)
    vault = restored.open()

    def unit(records: Records) -> None:
        key = records.find_workload_key(digest("key"))
        assert key is not None
        assert key.revoked
        assert records.find_not_before(DEFAULT_TENANT, ALICE) is not None
        agent = records.find_workload(DEFAULT_TENANT, "agent")
        assert agent is not None
        grants = {grant.key.user: grant for grant in records.list_grants(DEFAULT_TENANT, agent.id, (ALICE.key, "")).grants}
        asked = grants[ALICE.key]
        assert (asked.state, asked.reason) == (GrantState.NEEDS_CONSENT, Reason.REVOKED)
        assert grants[""].state is GrantState.ACTIVE  # nobody is to be asked

    try:
        await vault.run(unit)
    finally:
        vault.close()


async def test_an_access_token_that_ended_since_the_backup_does_not_count_again(
    here: Somewhere, archive: Path, tmp_path: Path
) -> None:
    def change(records: Records) -> int:
        agent = records.find_workload(DEFAULT_TENANT, "agent")
        assert agent is not None
        return records.update_workload(agent).epoch

    vault = here.open()
    try:
        since = {await vault.run(change) for _ in range(3)}  # access tokens name the epoch that they were issued under
    finally:
        vault.close()
    restored = here.at(new_database("sqlite", tmp_path))
    moving.restore(restored.settings, archive, PLAIN, nobody)
    vault = restored.open()
    try:
        agent = await vault.run(lambda records: records.find_workload(DEFAULT_TENANT, "agent"))
    finally:
        vault.close()
    assert agent is not None
    assert agent.epoch not in since


@pytest.mark.parametrize("kind", EITHER)
def test_a_vault_that_is_there_is_left_as_it_is(here: Somewhere, archive: Path, kind: str, tmp_path: Path) -> None:
    same = here.at(new_database(kind, tmp_path))
    moving.copy(here.settings, same.url, nobody)
    before = same.rows()
    with pytest.raises(Conflict) as caught:
        moving.restore(same.settings, archive, PLAIN, nobody)
    assert caught.value.code == "conflict"
    assert same.rows() == before


def test_another_vault_that_is_there_is_left_as_it_is(here: Somewhere, archive: Path, tmp_path: Path) -> None:
    url = new_database("sqlite", tmp_path)
    Somewhere(tmp_path / "other", url).open().close()
    before = here.at(url).rows()
    with pytest.raises(Conflict):
        moving.restore(here.at(url).settings, archive, PLAIN, nobody)
    assert here.at(url).rows() == before


def test_without_its_key_an_archive_is_no_vault(here: Somewhere, archive: Path, tmp_path: Path) -> None:
    other = Somewhere(tmp_path / "other")
    other.open().close()
    nowhere = other.at(new_database("sqlite", tmp_path))
    for command in (
        lambda: moving.restore(nowhere.settings, archive, PLAIN, nobody),
        lambda: moving.check(nowhere.settings, archive, nobody),
    ):
        with pytest.raises(ConfigurationError) as caught:
            command()
        assert "another key" in caught.value.message
    (here.home / "key").unlink()
    with pytest.raises(ConfigurationError) as missing:
        moving.restore(here.at(new_database("sqlite", tmp_path)).settings, archive, PLAIN, nobody)
    assert "MCP_IDENTITY_KEY" in missing.value.message
    assert not (here.home / "key").exists()


@pytest.mark.parametrize("place", ["head", "middle", "end", "cut", "more"])
def test_an_archive_that_was_changed_is_refused_before_anything_is_written(
    here: Somewhere, archive: Path, place: str, tmp_path: Path
) -> None:
    data = bytearray(archive.read_bytes())
    if place == "cut":
        del data[-1:]
    elif place == "more":
        data += b"\0"
    else:
        data[{"head": 60, "middle": len(data) // 2, "end": len(data) - 1}[place]] ^= 1
    archive.write_bytes(data)
    url = new_database("sqlite", tmp_path)
    with pytest.raises(IdentityError) as caught:
        moving.restore(here.at(url).settings, archive, PLAIN, nobody)
    assert caught.value.code in ("vault_corrupt", "configuration_error")
    assert not Path(url.removeprefix("sqlite:///")).parent.exists()


def test_an_archive_of_another_schema_says_what_to_do(here: Somewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moving.back_up(here.settings, tmp_path / "archive", None, nobody)
    for version, words in ((SCHEMA_VERSION + 1, "an older schema"), (SCHEMA_VERSION - 1, "a newer schema")):
        monkeypatch.setattr("mcp_identity.vault.moving.archive.SCHEMA_VERSION", version)
        with pytest.raises(VaultUnavailable) as caught:
            moving.check(here.settings, tmp_path / "archive", nobody)
        assert words in caught.value.message


@pytest.mark.parametrize("kind", DATABASES)
def test_a_restore_that_was_stopped_begins_anew_with_another_archive_too(
    here: Somewhere, archive: Path, kind: str, tmp_path: Path
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    restored = here.at(new_database(kind, tmp_path))
    with pytest.raises(KeyboardInterrupt):
        moving.restore(restored.settings, archive, PLAIN, Watching("compared", stop))
    with pytest.raises(VaultUnavailable) as caught:
        restored.open()
    assert "being filled" in caught.value.message
    here.edit("DELETE FROM grants")
    moving.back_up(here.settings, tmp_path / "later", None, nobody)
    report = moving.restore(restored.settings, tmp_path / "later", PLAIN, nobody)
    assert report.resumed
    assert restored.rows()["grants"] == []
    assert without_trail(restored.rows())["users"] == here.rows()["users"]
    restored.open().close()


def test_a_restored_vault_that_is_not_the_archive_is_not_opened(here: Somewhere, archive: Path, tmp_path: Path) -> None:
    restored = here.at(new_database("sqlite", tmp_path))
    spoil = Watching("copied", lambda: restored.edit("UPDATE grants SET lease_counter = 9"), table="workload_keys")
    with pytest.raises(VaultCorrupt) as caught:
        moving.restore(restored.settings, archive, PLAIN, spoil)
    assert "grants" in caught.value.message
    with pytest.raises(VaultUnavailable):
        restored.open()


async def test_a_refresh_token_that_was_rotated_since_ends_in_a_question_and_in_no_loop(tmp_path: Path) -> None:
    """The vendor takes it for stolen; the user is asked, and nobody hammers the vendor."""
    clock = FakeClock()
    server = FakeAuthorizationServer(clock.now)
    home, archive = tmp_path / "home", tmp_path / "archive"
    async with running_product(home, clock=clock, server=server) as product:
        await product.add()
        await product.connected("read")
        moving.back_up(Somewhere(home).settings, archive, None, nobody)
        clock.advance(2 * 3600)
        await product.token("read")  # rotates
    back = tmp_path / "back"
    back.mkdir(mode=0o700)
    (back / "key").write_bytes((home / "key").read_bytes())
    (back / "key").chmod(0o600)
    report = moving.restore(Somewhere(back).settings, archive, PLAIN, nobody)
    assert report.findings.refreshable == 1
    clock.advance(2 * 3600)
    async with running_product(back, clock=clock, server=server) as product:
        sent = len(server.requests)
        assert (await product.link("read")).reason is Reason.REFRESH_REJECTED
        assert len(server.requests) == sent + 1
        for _ in range(3):
            await product.link("read")
        assert len(server.requests) == sent + 1
        await product.connected("read")
