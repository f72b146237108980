from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from mcp_identity.domain.errors import ConfigurationError, IdentityError, VaultUnavailable
from mcp_identity.settings import Settings, environment_for_clients, read_secret
from mcp_identity.vault.stores.postgres import PostgresStore
from mcp_identity.vault.stores.postgres_url import PostgresAddress, parse_url
from tests.fakes.postgres import Database, postgres


def address(url: str) -> PostgresAddress:
    return parse_url(url, read_secret)


def said(url: str) -> dict[str, str]:
    return address(url).driver_parameters()


@pytest.fixture
def empty() -> Generator[Database]:
    database = postgres().create_database()
    yield database
    database.drop()


def ask(url: str) -> None:
    with PostgresStore(address(url)).writing_engine().connect() as connection:
        connection.exec_driver_sql("SELECT 1")


# --- how the server is reached ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://u@db.example/v", "require"),
        ("postgres://u@10.0.0.5/v", "require"),
        ("postgresql://u@localhost.example/v", "require"),
        ("postgresql://u@127.0.0.1,db.example/v", "require"),
        ("postgresql://u@localhost/v?hostaddr=10.0.0.5", "require"),
        ("postgresql://u@db.example/v?sslmode=disable", "disable"),
        ("postgresql://u@db.example/v?sslmode=verify-full", "verify-full"),
        ("postgresql://u@127.0.0.1/v", "prefer"),
        ("postgresql://u@[::1]/v", "prefer"),
        ("postgresql://u@/v?host=/run/postgresql", "prefer"),
    ],
)
def test_over_a_network_tls_is_required_unless_the_url_says_otherwise(url: str, mode: str) -> None:
    assert said(url)["sslmode"] == mode


def test_a_server_that_is_not_proved_may_not_ask_for_the_password_itself() -> None:
    assert said("postgresql://u@db.example/v")["require_auth"] == "!password,!md5"
    assert said("postgresql://u@127.0.0.1/v")["require_auth"] == "!password,!md5"
    assert said("postgresql://u@db.example/v?require_auth=password")["require_auth"] == "password"
    assert said("postgresql://u@db.example/v?sslmode=verify-full")["require_auth"] == ""


def test_nothing_is_taken_from_the_environment_or_the_users_home(
    empty: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = (
        "HOST HOSTADDR PORT DATABASE USER PASSWORD PASSFILE CHANNELBINDING OPTIONS SSLMODE REQUIREPEER REQUIREAUTH SSLCERT "
        "SSLKEY SSLROOTCERT SSLCRL GSSENCMODE CONNECT_TIMEOUT CLIENTENCODING TARGETSESSIONATTRS SSLNEGOTIATION "
        "MINPROTOCOLVERSION MAXPROTOCOLVERSION LOADBALANCEHOSTS KRBSRVNAME"
    )
    for name in names.split():
        monkeypatch.setenv(f"PG{name}", "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".pgpass").write_text(f"*:*:*:*:{empty.server.password}\n")
    (tmp_path / ".pgpass").chmod(0o600)
    ask(empty.url)
    with pytest.raises(VaultUnavailable) as caught:
        ask(empty.url_without_password)
    assert "wants a password" in caught.value.message


def test_a_service_that_would_lead_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICE", "elsewhere")
    with pytest.raises(ConfigurationError) as caught:
        _ = Settings(database_url="postgresql://u@h/v").postgres_url
    assert "unset PGSERVICE" in caught.value.message
    assert Settings(database_url="sqlite:////v").postgres_url == ""


# --- the password -----------------------------------------------------------------------------------------------------


def test_the_password_comes_from_the_url_a_variable_a_file_or_a_passfile(
    empty: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    password, plain = empty.server.password, empty.url_without_password
    monkeypatch.setenv("VAULT_PASSWORD", password)
    (tmp_path / "password").write_text(f"{password}\n")
    (tmp_path / "passfile").write_text(f"*:*:*:*:{password.replace(':', chr(92) + ':')}\n")
    (tmp_path / "passfile").chmod(0o600)
    ways = ("password_from=env:VAULT_PASSWORD", f"password_from=file:{tmp_path}/password", f"passfile={tmp_path}/passfile")
    for url in (empty.url, *(f"{plain}?{way}" for way in ways)):
        ask(url)


def test_a_password_that_changed_is_read_again_for_the_next_connection(empty: Database, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old")
    engine = PostgresStore(address(f"{empty.url_without_password}?password_from=file:{file}")).writing_engine()
    with pytest.raises(VaultUnavailable):
        engine.connect()
    file.write_text(empty.server.password)
    engine.connect().close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:canary@h/v?password_from=env:X",
        "postgresql://u:canary@h/v?passfile=/x",
        "postgresql://u:canary@h",
        "postgresql://u:canary@/v",
        "postgresql://:canary@h/v",
        "postgresql://u:canary%zz@h/v",
        "postgresql://u:canary@h/v?options=-cx%3Dy",
        "postgresql://u:canary@h/v?service=x",
        "postgresql://u:canary@h/v?nonsense=x",
        "postgresql://u:canary@h:port/v",
        "postgresql://u:canary@[::1/v",
    ],
)
def test_a_url_that_does_not_stand_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(IdentityError) as caught:
        ask(url)
    assert "canary" not in str(caught.value)
    assert caught.value.code in ("configuration_error", "vault_unavailable")


@pytest.mark.parametrize(
    ("part", "instead", "why"),
    [
        ("identity:", "identity:x", "the password is not right"),
        ("/test_", "/none_", "no such database"),
        ("127.0.0.1", "nowhere.invalid", "its host is not known"),
        ("/test_", "/test_?sslmode=require&dbname=test_", "does not speak TLS"),
    ],
)
def test_why_there_is_no_connection_is_said_and_nothing_that_is_secret(
    empty: Database, part: str, instead: str, why: str
) -> None:
    with pytest.raises(VaultUnavailable) as caught:
        ask(empty.url.replace(part, instead))
    assert why in caught.value.message
    for secret in (empty.server.password, "identity:"):
        assert secret not in str(caught.value)


def test_neither_the_settings_nor_an_address_show_the_password() -> None:
    url = "postgresql://u:canary@h/v"
    assert "canary" not in repr(Settings(database_url=url))
    assert "canary" not in repr(address(url))
    assert "canary" not in address(url).name


@pytest.mark.parametrize("url", ["postgresql://u:canary@h/v", "postgres://u@h/v?password=canary"])
def test_no_clients_configuration_gets_the_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_IDENTITY_DATABASE_URL", url)
    with pytest.raises(ConfigurationError) as caught:
        environment_for_clients()
    assert "canary" not in caught.value.message
    assert "password_from=file:" in caught.value.message
    reference = "postgresql://u@h/v?password_from=file:/run/secret"
    monkeypatch.setenv("MCP_IDENTITY_DATABASE_URL", reference)
    assert environment_for_clients()["MCP_IDENTITY_DATABASE_URL"] == reference


@pytest.mark.parametrize("url", ["mysql://u@h/v", "sqlite:///", "sqlite://x", "postgresql:u", "/path"])
def test_another_database_is_refused_and_the_message_says_what_there_is(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///<path>, or postgresql://"):
        Settings(database_url=url)
