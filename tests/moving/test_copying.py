"""Does every row arrive as it was, in both directions, and does nothing else happen?"""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_identity.app import moving
from mcp_identity.domain.credentials import GrantState
from mcp_identity.domain.errors import Conflict, InvalidRequest, VaultCorrupt, VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.columns import metadata
from mcp_identity.vault.moving.state import CARRIED
from mcp_identity.vault.records import Records
from tests.moving.kit import DATABASES, EITHER, Somewhere, Watching, new_database, nobody, rows_of, without_trail
from tests.vault.kit import ALICE, behind_its_back, fingerprint, grant_key

DIRECTIONS = [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("sqlite", "sqlite")]


def test_every_table_has_rows_in_these_tests_and_every_table_is_carried(here: Somewhere) -> None:
    assert [name for name, rows in here.rows().items() if not rows] == []
    assert {table.name for table in CARRIED} == metadata.tables.keys() - {"vault_state"}


@pytest.mark.parametrize(("vault_on", "to"), DIRECTIONS, indirect=["vault_on"])
async def test_every_row_is_the_same_afterwards_and_the_copy_works(vault_on: Somewhere, to: str, tmp_path: Path) -> None:
    before = vault_on.rows()
    copied = vault_on.at(new_database(to, tmp_path))
    report = moving.copy(vault_on.settings, copied.url, nobody)
    assert without_trail(copied.rows()) == without_trail(before) == without_trail(vault_on.rows())
    assert set(before["audit_events"]) < set(vault_on.rows()["audit_events"]) < set(copied.rows()["audit_events"])
    assert report.findings.unreadable == {}
    assert report.written == rows_of(report.contents)
    assert (report.resumed, report.was_complete) == (False, False)
    vault = copied.open()
    try:
        assert vault.id == report.vault_id

        def unit(records: Records) -> GrantState:
            agent = records.find_workload(DEFAULT_TENANT, "agent")
            assert agent is not None
            grant = records.find_grant(grant_key(agent, ALICE))
            assert grant is not None
            assert grant.tokens is not None
            assert grant.tokens.access_token.reveal() == "access-1"
            return grant.state

        assert await vault.run(unit) is GrantState.ACTIVE
    finally:
        vault.close()


@pytest.mark.parametrize(("vault_on", "to"), DIRECTIONS[2:], indirect=["vault_on"])
def test_both_trails_say_it_the_source_before_the_first_row_is_read(vault_on: Somewhere, to: str, tmp_path: Path) -> None:
    copied = vault_on.at(new_database(to, tmp_path))
    said: list[object] = []
    moving.copy(vault_on.settings, copied.url, Watching("copied", lambda: said.append(vault_on.trail())))
    assert said == [vault_on.trail()]
    (action, outcome, detail) = vault_on.trail()[-1]
    assert (action, outcome) == ("copy_vault", "ok")
    assert '"to"' in detail
    assert '"source"' in copied.trail()[-1][2]
    assert len(copied.trail()) == len(vault_on.trail()) + 1


@pytest.mark.parametrize("to", EITHER)
def test_another_vault_in_the_target_is_left_as_it_is(here: Somewhere, to: str, tmp_path: Path) -> None:
    other = Somewhere(tmp_path / "other", new_database(to, tmp_path))
    other.open().close()
    before = other.rows()
    with pytest.raises(Conflict) as caught:
        moving.copy(here.settings, other.url, nobody)
    assert caught.value.code == "conflict"
    assert "another vault" in caught.value.message
    assert other.rows() == before


def test_what_is_no_vault_in_the_target_is_left_as_it_is(here: Somewhere, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir(mode=0o700)
    file = folder / "vault.db"
    behind_its_back(file, "CREATE TABLE mine (id)")
    file.chmod(0o600)
    empty = folder / "empty.db"
    empty.touch(0o600)
    before = fingerprint(folder)
    for each in (file, empty):
        with pytest.raises(Conflict) as caught:
            moving.copy(here.settings, f"sqlite:///{each}", nobody)
        assert caught.value.code == "conflict"
    after = fingerprint(folder)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("to", DATABASES)
def test_a_copy_that_was_finished_is_found_to_be_so(here: Somewhere, to: str, tmp_path: Path) -> None:
    copied = here.at(new_database(to, tmp_path))
    moving.copy(here.settings, copied.url, nobody)
    before = copied.rows()
    again = moving.copy(here.settings, copied.url, nobody)
    assert again.was_complete
    assert copied.rows() == before
    here.edit("UPDATE users SET last_seen_at = last_seen_at + 1")
    with pytest.raises(Conflict) as caught:
        moving.copy(here.settings, copied.url, nobody)
    assert "was used since" in caught.value.message
    assert copied.rows() == before


async def test_a_copy_is_no_longer_one_once_a_token_was_released_from_the_source(here: Somewhere, tmp_path: Path) -> None:
    from tests.vault.kit import EVENT

    copied = here.at(new_database("sqlite", tmp_path))
    moving.copy(here.settings, copied.url, nobody)
    vault = here.open()
    await vault.run(lambda records: records.append_audit(EVENT))
    vault.close()
    with pytest.raises(Conflict) as caught:
        moving.copy(here.settings, copied.url, nobody)
    assert caught.value.code == "conflict"


def test_a_vault_is_not_copied_onto_itself(here: Somewhere) -> None:
    with pytest.raises(InvalidRequest) as caught:
        moving.copy(here.settings, f"sqlite:///{here.home}/vault.db", nobody)
    assert caught.value.code == "invalid_request"


def test_a_file_beside_the_vault_is_a_place_too(here: Somewhere) -> None:
    report = moving.copy(here.settings, f"sqlite:///{here.home}/second.db", nobody)
    assert report.findings.unreadable == {}
    assert (here.home / "second.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://identity:secret@db.example/identity",
        "postgresql://identity@db.example/identity?password=secret",
        "postgresql://identity@db.example/identity?pass%77ord=secret",
        "mysql://db.example/identity",
        "sqlite:///",
        "postgresql://[",
        "",
    ],
)
def test_a_url_that_is_none_or_holds_a_password_is_refused_without_being_repeated(here: Somewhere, url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        moving.copy(here.settings, url, nobody)
    assert caught.value.code == "invalid_request"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("vault_on", EITHER, indirect=True)
def test_a_row_that_did_not_authenticate_does_not_so_afterwards_and_hides_no_other(vault_on: Somewhere, tmp_path: Path) -> None:
    vault_on.edit("UPDATE workload_identities SET disabled = 1 - disabled WHERE name = 'other'")
    vault_on.edit("UPDATE grants SET granted_scopes = 'all' WHERE user_key <> ''")
    copied = vault_on.at(new_database("sqlite", tmp_path))
    report = moving.copy(vault_on.settings, copied.url, nobody)
    assert report.findings.unreadable == {"workload_identities": 1, "grants": 1}
    assert without_trail(copied.rows()) == without_trail(vault_on.rows())


def test_an_edited_trail_is_found(here: Somewhere, tmp_path: Path) -> None:
    here.edit("UPDATE audit_events SET outcome = 'denied' WHERE sequence = 2")
    report = moving.copy(here.settings, new_database("sqlite", tmp_path), nobody)
    assert report.findings.unreadable == {"audit_events": 1}


def test_a_shortened_trail_is_found(here: Somewhere, tmp_path: Path) -> None:
    here.edit("DELETE FROM audit_events WHERE sequence = (SELECT max(sequence) FROM audit_events)")
    report = moving.copy(here.settings, new_database("sqlite", tmp_path), nobody)
    assert report.findings.unreadable == {"audit_heads": 1}


@pytest.mark.parametrize("to", EITHER)
def test_a_row_that_no_database_can_carry_is_named_and_nothing_opens_the_rest(here: Somewhere, to: str, tmp_path: Path) -> None:
    here.edit("UPDATE grants SET expires_at = 'tomorrow' WHERE user_key <> ''")
    copied = here.at(new_database(to, tmp_path))
    with pytest.raises(VaultCorrupt) as caught:
        moving.copy(here.settings, copied.url, nobody)
    assert caught.value.code == "vault_corrupt"
    assert "of grants" in caught.value.message
    with pytest.raises(VaultUnavailable) as refused:
        copied.open()
    assert "being filled" in refused.value.message


@pytest.mark.parametrize(("vault_on", "to"), DIRECTIONS[:1], indirect=["vault_on"])
def test_a_copy_that_is_not_the_same_is_not_opened(vault_on: Somewhere, to: str, tmp_path: Path) -> None:
    copied = vault_on.at(new_database(to, tmp_path))
    spoil = Watching("compared", lambda: copied.edit("UPDATE grants SET lease_counter = 7 WHERE user_key <> ''"))
    with pytest.raises(VaultCorrupt) as caught:
        moving.copy(vault_on.settings, copied.url, spoil)
    assert "grants" in caught.value.message
    with pytest.raises(VaultUnavailable):
        copied.open()
    report = moving.copy(vault_on.settings, copied.url, nobody)
    assert report.resumed
    assert without_trail(copied.rows()) == without_trail(vault_on.rows())


@pytest.mark.parametrize("vault_on", EITHER, indirect=True)
def test_a_vault_of_a_newer_version_is_not_copied(vault_on: Somewhere, tmp_path: Path) -> None:
    vault_on.edit("UPDATE vault_state SET schema_version = 99")
    with pytest.raises(VaultUnavailable) as caught:
        moving.copy(vault_on.settings, new_database("sqlite", tmp_path), nobody)
    assert caught.value.code == "vault_unavailable"
    assert "newer" in caught.value.message


def test_an_older_schema_on_postgresql_names_the_command_that_upgrades_it(there: Somewhere, tmp_path: Path) -> None:
    there.edit("UPDATE vault_state SET schema_version = 0")
    with pytest.raises(VaultUnavailable) as caught:
        moving.copy(there.settings, new_database("sqlite", tmp_path), nobody)
    assert "vault migrate" in caught.value.message


@pytest.mark.parametrize("to", EITHER)
def test_a_newer_vault_in_the_target_is_left_as_it_is(here: Somewhere, to: str, tmp_path: Path) -> None:
    copied = here.at(new_database(to, tmp_path))
    moving.copy(here.settings, copied.url, nobody)
    copied.edit("UPDATE vault_state SET schema_version = 99")
    before = copied.rows()
    with pytest.raises(VaultUnavailable) as caught:
        moving.copy(here.settings, copied.url, nobody)
    assert "newer" in caught.value.message
    assert copied.rows() == before
