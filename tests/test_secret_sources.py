"""What can be read by naming it? What is in the place that was listed for the tenant, and nothing beside it by any trick."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcp_identity.app.secret_sources import ListedSources
from mcp_identity.broker.secret_sources import NoSources
from mcp_identity.domain.credentials import Secret, SecretReference
from mcp_identity.domain.errors import ConfigurationError, InvalidRequest
from mcp_identity.settings import Settings, load_settings
from tests.fakes.vendor import new_secret

posix = pytest.mark.skipif(os.name != "posix", reason="links and pipes are POSIX")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that was listed for the tenant `acme`, beside a vault's own, and what is in both."""

    folder: Path
    home: Path
    secret: str
    key: str

    def sources(self, **given: Any) -> ListedSources:
        """What reads there."""
        settings: dict[str, Any] = {
            "home": self.home,
            "secret_sources": (f"acme=file:{self.folder}/", "acme=env:ACME_"),
            **given,
        }
        return ListedSources(Settings(**settings))

    async def read(self, path: str | Path, json_key: str = "", tenant: str = "acme", **given: Any) -> Secret:
        """Read a file by its name."""
        return await self.sources(**given).read(tenant, SecretReference(f"file:{path}", json_key))

    async def refusal(self, path: str | Path, json_key: str = "", tenant: str = "acme", **given: Any) -> str:
        """The message of a refusal, which tells nothing of what is there."""
        with pytest.raises(InvalidRequest) as refused:
            await self.read(path, json_key, tenant, **given)
        for told in (self.secret, self.key, str(path), "Error", "Errno"):
            assert told not in refused.value.message
        return refused.value.message


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place in good order."""
    made = Place(tmp_path / "acme", tmp_path / "home", new_secret(), new_secret())
    for folder in (made.folder, made.home):
        folder.mkdir()
    (made.folder / "secret").write_text(f"{made.secret}\n")
    (made.home / "key").write_text(made.key)
    return made


async def test_a_secret_in_the_place_is_read_without_its_line_break(place: Place) -> None:
    assert await place.read(place.folder / "secret") == Secret(place.secret)


async def test_a_variable_of_the_place_is_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_SECRET", place.secret)
    sources = place.sources()
    assert await sources.read("acme", SecretReference("env:ACME_SECRET")) == Secret(place.secret)
    for tenant, name in (("other", "ACME_SECRET"), ("acme", "ACME_NONE"), ("acme", "PATH"), ("acme", "HOME")):
        with pytest.raises(InvalidRequest):
            await sources.read(tenant, SecretReference(f"env:{name}"))


async def test_one_value_of_a_json_document_is_read_and_nothing_else_of_it(place: Place) -> None:
    document = place.folder / "all.json"
    document.write_text(json.dumps({"a": place.secret, "b": {"c": "d"}, "e": ["f"], "g": 7, "": "x"}, indent=2))
    assert await place.read(document, "a") == Secret(place.secret)
    for key in ("b", "b.c", "e", "g", "none", "A"):
        assert "JSON object" in await place.refusal(document, key)
    assert "JSON object" in await place.refusal(document)  # several lines, and none was named
    for text in ("[1]", '"a"', "{", "null", "[" * 60_000, "\ufeff{}"):
        document.write_text(text)
        await place.refusal(document, "a")
    assert "visible" in await place.refusal(document, "a\0b")
    assert "visible" in await place.refusal(document, "k" * 300)


async def test_what_is_no_secret_is_refused(place: Place) -> None:
    for content in (b"", b"\n", b"two\nlines", b"bell\x07", b"\xff\xfe", b"x" * 16_385, b"x" * 1_000_000):
        (place.folder / "wrong").write_bytes(content)
        await place.refusal(place.folder / "wrong")
    await place.refusal(place.folder / "absent")
    await place.refusal(place.folder / "secret" / "below")


async def test_a_key_in_pem_is_one_secret_of_several_lines(place: Place) -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----"
    (place.folder / "key.pem").write_text(pem + "\n")
    assert await place.read(place.folder / "key.pem") == Secret(pem)


async def test_without_a_place_nothing_is_read_and_it_is_said_how_to_list_one(place: Place) -> None:
    path = place.folder / "secret"
    for message in (
        await place.refusal(path, tenant="other"),
        await place.refusal(path, secret_sources=()),
        await place.refusal(place.folder.parent / "elsewhere"),
        await place.refusal("/etc/hostname"),
    ):
        assert "MCP_IDENTITY_SECRET_SOURCES" in message
    with pytest.raises(InvalidRequest, match="MCP_IDENTITY_SECRET_SOURCES=acme-corp=env:ACME_CORP_"):
        await NoSources().read("acme-corp", SecretReference("env:X"))


@posix
async def test_a_link_that_stays_in_the_place_is_followed_as_mounted_secrets_need_it(place: Place) -> None:
    data = place.folder / "..2026_11_28"
    data.mkdir()
    (data / "token").write_text(place.secret)
    (place.folder / "..data").symlink_to(data.name)
    (place.folder / "token").symlink_to("..data/token")
    assert await place.read(place.folder / "token") == Secret(place.secret)


@posix
@pytest.mark.parametrize("target", ["home/key", "home", "outside", "/etc/hostname", "/proc/self/environ", "loop"])
async def test_a_link_that_leads_out_is_not(place: Place, target: str) -> None:
    (place.folder.parent / "outside").write_text(place.secret)
    link = place.folder / "loop"
    link.symlink_to(place.folder.parent / target if target != "loop" else link)
    await place.refusal(link)
    await place.refusal(link / "key")


@posix
async def test_a_folder_on_the_way_that_is_a_link_out_is_not_entered(place: Place) -> None:
    (place.folder / "deep").symlink_to(place.home)
    await place.refusal(place.folder / "deep" / "key")


@posix
async def test_a_second_name_of_the_vaults_own_file_is_known(place: Place) -> None:
    os.link(place.home / "key", place.folder / "mine")
    await place.refusal(place.folder / "mine")


@posix
async def test_a_link_that_is_swapped_after_it_was_looked_at_is_not_followed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write in the folder exchanges what is there at the worst moment."""
    outside = place.folder.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text(place.key)
    for inner, swapped in (("secret", "secret"), ("deep/secret", "deep")):
        path = place.folder / inner
        path.parent.mkdir(exist_ok=True)
        path.write_text(place.secret)

        def swap(given: Any, real: str = str(path.resolve()), swapped: str = swapped, **options: Any) -> str:
            del options
            if str(given).endswith("secret"):
                moved = place.folder / swapped
                moved.rename(place.folder / f"was-{swapped}")
                moved.symlink_to(outside / "secret" if swapped == "secret" else outside)
                return real
            return str(given)

        monkeypatch.setattr("mcp_identity.app.secret_sources.os.path.realpath", swap)
        await place.refusal(path)
        monkeypatch.undo()


@posix
async def test_a_pipe_or_a_folder_is_no_file_and_nobody_waits_for_it(place: Place) -> None:
    os.mkfifo(place.folder / "pipe")
    (place.folder / "folder").mkdir()
    for name in ("pipe", "folder"):
        await place.refusal(place.folder / name)


async def test_what_the_settings_name_to_open_the_vault_is_read_by_nobody_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator has listed a folder, or a prefix, that also has what is the vault's."""
    for name in ("kek", "token", "tls.pem", "pin", "db password"):
        (place.folder / name).write_text(place.key)
    monkeypatch.setenv("ACME_KEK", place.key)
    inside = str(place.folder)
    reaching: tuple[tuple[str, dict[str, Any]], ...] = (
        ("kek", {"key": f"file:{inside}/kek"}),
        ("token", {"key": f"transit:https://bao/transit/k?token_file={inside}/token"}),
        ("pin", {"key": f"pkcs11:token=v;object=o?module-path=/m.so&pin-source=file:{inside}/pin"}),
        ("tls.pem", {"tls_key": Path(inside) / "tls.pem", "tls_cert": Path(inside) / "tls.pem"}),
        ("db password", {"database_url": f"postgresql://u@h/d?password_from=file:{inside}/db%20password"}),
    )
    for path, given in reaching:
        assert await place.read(place.folder / path) == Secret(place.key)  # but for the setting it could be read
        await place.refusal(place.folder / path, **given)
    for named in ({"key": "env:ACME_KEK"}, {"database_url": "postgresql://u@h/d?password_from=env:ACME_KEK"}):
        with pytest.raises(InvalidRequest):
            await place.sources(**named).read("acme", SecretReference("env:ACME_KEK"))
    assert await place.sources().read("acme", SecretReference("env:ACME_KEK")) == Secret(place.key)


async def test_a_database_beside_its_home_is_not_read(place: Place) -> None:
    (place.folder / "vault.db").write_text("a page")
    (place.folder / "vault.db-wal").write_text("another")
    url = f"sqlite:///{place.folder}/vault.db"
    for name in ("vault.db", "vault.db-wal"):
        await place.refusal(place.folder / name, database_url=url)


async def test_a_place_around_the_vaults_own_folder_does_not_reach_into_it(place: Place) -> None:
    inner = place.home / "backups"
    inner.mkdir()
    (inner / "old").write_text(place.key)
    around = (f"acme=file:{place.home.parent}/",)
    for path in (place.home / "key", inner / "old"):
        await place.refusal(path, secret_sources=around)
    assert await place.read(place.folder / "secret", secret_sources=around) == Secret(place.secret)


@posix
def test_a_place_in_the_vaults_own_folder_ends_the_start(place: Place) -> None:
    (place.folder / "link").symlink_to(place.home)
    for folder in (place.home, place.home / "acme", place.folder / "link", place.folder / "link" / "deep"):
        with pytest.raises(ConfigurationError, match="own folder"):
            place.sources(secret_sources=(f"acme=file:{folder}/",))


def test_the_setting_is_read_from_the_environment_and_a_wrong_one_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MCP_IDENTITY_HOME", str(tmp_path))
    monkeypatch.setenv("MCP_IDENTITY_SECRET_SOURCES", "acme=env:ACME_, other=file:/run/secrets/other/")
    assert load_settings().secret_sources == ("acme=env:ACME_", "other=file:/run/secrets/other/")
    monkeypatch.setenv("MCP_IDENTITY_SECRET_SOURCES", "acme=hunter2")
    with pytest.raises(ConfigurationError, match="secret_sources") as refused:
        load_settings()
    assert "hunter2" not in refused.value.message
