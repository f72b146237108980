"""Can an operator say whose users' tokens a provider is sent, and give it a key to sign with?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cli.conftest import CommandLine
from tests.fakes.identity_provider import FakeIdentityProvider

CRM = ("providers", "add", "crm", "--token-url", "https://crm.example.com/token", "--client-id", "ID", "--json")
EXCHANGE = ("--set", "on_behalf_of=token-exchange")


@pytest.fixture
def corp(vault: CommandLine) -> Iterator[CommandLine]:
    """A vault with the issuer `corp`."""
    with FakeIdentityProvider().serving() as idp:
        vault.succeed(
            *("issuers", "add", "corp", "--discovery-url", idp.discovery_url, "--audience", idp.audience),
            "--allow-http-loopback",
        )
        yield vault


def key() -> str:
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def test_a_provider_lists_whose_users_tokens_it_is_sent(corp: CommandLine) -> None:
    added = corp.succeed(*CRM, *EXCHANGE, "--subject-issuer", "corp", "--client-secret-stdin", stdin="made-up").json
    assert (added["flows"], added["subject_issuers"]) == (["M2M", "ON_BEHALF_OF_TOKEN_EXCHANGE"], ["corp"])
    assert "subject issuers: corp" in " ".join(corp.succeed("providers", "show", "crm").out.split())
    assert corp.succeed("providers", "update", "crm", "--scopes", "a", "--json").json["subject_issuers"] == ["corp"]
    moved = corp.succeed("providers", "update", "crm", "--token-url", "https://elsewhere.example.com/token")
    assert "none are sent any more" in moved.err
    assert "mcp-identity providers update crm --subject-issuer ISSUER" in moved.err
    again = corp.succeed("providers", "update", "crm", "--subject-issuer", "corp", "--json").json
    assert again["subject_issuers"] == ["corp"]
    none = corp.succeed("providers", "update", "crm", "--subject-issuer", "", "--json").json
    assert (none["flows"], none["subject_issuers"]) == (["M2M"], [])


def test_an_issuer_that_is_not_there_is_named_with_the_list(corp: CommandLine) -> None:
    answer = corp(*CRM, *EXCHANGE, "--subject-issuer", "nobody", "--client-secret-stdin", stdin="made-up")
    assert answer.code != 0
    assert "mcp-identity issuers list" in answer.err
    answer = corp(*CRM, "--subject-issuer", "corp", "--client-secret-stdin", stdin="made-up")
    assert answer.code == 2
    assert "--set on_behalf_of=token-exchange" in answer.err


@pytest.mark.parametrize("place", ["env", "file", "stdin"])
def test_a_key_to_sign_with_comes_from_where_secrets_come_from_and_is_never_shown(
    vault: CommandLine, tmp_path: Path, place: str
) -> None:
    pem, file = key(), tmp_path / "key.pem"
    file.write_text(pem)
    given = {"env": ("env", "THE_KEY"), "file": ("file", str(file)), "stdin": ("stdin",)}[place]
    options = ("--client-auth", "private_key_jwt", f"--client-secret-{given[0]}", *given[1:])
    added = vault.succeed(*CRM, *options, stdin=pem if place == "stdin" else "", THE_KEY=pem)
    assert (added.json["client_authentication"], added.json["has_secret"]) == ("private_key_jwt", True)
    said = [added, vault.succeed("providers", "show", "crm"), vault.succeed("audit", "tail", "--json")]
    line = pem.splitlines()[1]
    assert all(line not in answer.out + answer.err for answer in said)
    assert line.encode() not in b"".join(path.read_bytes() for path in vault.home.iterdir() if path.is_file())


def test_without_a_key_nobody_is_asked_to_type_one(vault: CommandLine) -> None:
    answer = vault(*CRM, "--client-auth", "private_key_jwt")
    assert answer.code == 2
    assert "--client-secret-file" in answer.err
    answer = vault(*CRM, "--client-auth", "private_key_jwt", "--client-secret-stdin", stdin="no key")
    assert answer.code == 2
    assert "PEM" in answer.err


def test_the_catalog_shows_how_users_tokens_are_exchanged(cli: CommandLine) -> None:
    shown = cli.succeed("catalog", "show", "microsoft").out
    assert "on_behalf_of: jwt-bearer" in shown
    assert "--subject-issuer" in shown
    assert "on_behalf_of: how a user's own token is exchanged" in cli.succeed("catalog", "show", "custom").out
