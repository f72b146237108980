"""`mcp-identity vault`: where everything is kept, and how it gets to another database, into a backup, and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcp_identity.cli.options import JsonOption, examples
from mcp_identity.cli.output import local_time, print_facts, print_json, print_table, say
from mcp_identity.cli.progress import shown
from mcp_identity.cli.session import settings_of
from mcp_identity.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from mcp_identity.app.moving import Contents, CopyReport, RestoreReport
    from mcp_identity.settings import Settings

commands = typer.Typer(
    no_args_is_help=True, help="Where everything is kept: look at it, upgrade it, move it, back it up, restore it."
)
_TITLES = {
    "copied": "Copying",
    "compared": "Comparing",
    "opened": "Opening",
    "written": "Writing",
    "checked": "Checking",
}
_SIDES = {"compared": 2}
_ENDED = {
    "consents": "open consents ({})",
    "sign_ins": "open sign-ins and approvals ({})",
    "handles": "handles ({})",
    "leases": "refreshes under way ({})",
    "workloads": "access tokens of {} workloads",
    "workload_keys": "{} workload keys",
    "users": "tokens and sessions of {} users",
    "grants": "{} grants, until their users consent again",
    "left": "nothing in {} rows that cannot be read",
}
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_KIBI = 1024
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The archive.")]


@commands.command(epilog=examples("mcp-identity vault status", "mcp-identity vault status --json"))
def status(context: typer.Context, json: JsonOption = False) -> None:
    """Show which database the vault is in, its schema, its size, and how many rows it has.

    Needs no key, and changes nothing.
    """
    from mcp_identity.app.moving import look

    found = look(settings_of(context))
    facts: dict[str, Any] = {
        "database": found.database,
        "kind": found.kind,
        "vault_id": found.state.vault_id,
        "condition": found.condition,
        "schema": found.state.schema_version,
        "key_id": found.state.key_id,
        "bytes": found.bytes,
    }
    if json:
        print_json(facts | {"rows": found.rows})
        return
    del facts["bytes"]
    print_facts({name.replace("_", " "): str(value) for name, value in facts.items()} | {"size": _size(found.bytes)})
    if found.rows:
        typer.echo()
        print_table(("table", "rows"), [(name, str(count)) for name, count in sorted(found.rows.items()) if count])


@commands.command(epilog=examples("mcp-identity vault migrate"))
def migrate(context: typer.Context, json: JsonOption = False) -> None:
    """Bring the vault to the schema of this version.

    A SQLite vault does this by itself when it is opened, after a copy beside it. On PostgreSQL run this once before the first
    server of a new version starts; back up first. A vault that a newer version wrote is refused.
    """
    from mcp_identity.app.moving import migrate as upgrade

    migration = upgrade(settings_of(context))
    if json:
        print_json({"before": migration.before, "after": migration.after})
    elif migration.before < migration.after:
        typer.echo(f"Upgraded the vault from schema {migration.before} to {migration.after}. Next: start the new servers.")
    else:
        typer.echo(f"The vault has schema {migration.after} already; nothing was changed.")


@commands.command(
    epilog=examples(
        "mcp-identity vault copy --to 'postgresql://identity@db.example/identity?password_from=env:DB_PASSWORD'",
        "mcp-identity vault copy --to sqlite:////srv/identity/vault.db",
    )
)
def copy(
    context: typer.Context,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="URL", help="An empty database, as in MCP_IDENTITY_DATABASE_URL; no password, but where it is."
        ),
    ],
    json: JsonOption = False,
) -> None:
    """Copy the vault into another database: SQLite to PostgreSQL, back, or to another file.

    Every row goes as it is, the key stays the same, and nothing is sealed anew. While it lasts nobody may write: on SQLite stop
    whatever has the vault open; on PostgreSQL the replicas' calls fail and may be tried again. Every row is then read again
    from both. Until that is done nothing opens the copy. If anything stops this, run it again: it goes on. The source stays.
    """
    from mcp_identity.app.moving import copy as run_copy

    settings = settings_of(context)
    with shown(_TITLES, _SIDES, quiet=json) as begun:
        report = run_copy(settings, to, begun)
    if json:
        print_json(_copied(report))
        return
    rows = sum(report.contents.rows.values())
    if report.was_complete:
        typer.echo(f"The copy was finished before, and nothing was used since: {rows} rows. Nothing was changed.")
    else:
        typer.echo(
            f"Copied the vault: {rows} rows, the same in both; {report.findings.checked} of them were opened or checked."
        )
    _say_unreadable(report.findings.unreadable)
    typer.echo(f"\nNext:\n  1. export MCP_IDENTITY_DATABASE_URL='{to}'   (with the same key as before)")
    typer.echo("  2. mcp-identity doctor, and start the servers again")
    typer.echo("  3. Move the old vault away. Two vaults that are both used would spend each other's refresh tokens.")


@commands.command(
    epilog=examples(
        "mcp-identity vault backup /backups/vault-monday",
        "mcp-identity vault backup --verify /backups/vault-monday",
        "mcp-identity vault backup - | ssh backup@host 'cat > vault-monday'",
    )
)
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write; - for standard output.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check this archive instead, to its end; writes nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a sealed archive of the vault while it is used, as it is at one moment.

    Without the key it says nothing: not who has grants, nor where. The key is never in it. Whoever has both can read
    everything, and without the key nobody can: back up the key as well, somewhere else. Both databases are restored from it.
    """
    settings = settings_of(context)
    if verify:
        _verify(settings, file, json=json)
        return
    from mcp_identity.app.moving import back_up

    to_stdout = str(file) == "-"
    if to_stdout and sys.stdout.isatty():
        raise InvalidRequest("an archive is no text for a terminal; name a file, or send it through a pipe")
    with shown(_TITLES, _SIDES, quiet=json) as begun:
        contents = back_up(settings, None if to_stdout else file, sys.stdout.buffer if to_stdout else None, begun)
    if to_stdout:
        return
    size = file.stat().st_size
    if json:
        print_json({"file": str(file), "bytes": size, **_contents(contents)})
        return
    typer.echo(f"Wrote {file}: {sum(contents.rows.values())} rows, {_size(size)}.")
    typer.echo("It opens with the vault's key alone, which is not in it: back up that key somewhere else.")
    typer.echo(f"\nCheck it where it ends up:\n  mcp-identity vault backup --verify {file}")


def _verify(settings: Settings, file: Path, *, json: bool) -> None:
    from mcp_identity.app.moving import check

    with shown(_TITLES, _SIDES, quiet=json) as begun:
        head, contents = check(settings, file, begun)
    if json:
        print_json({"file": str(file), "vault_id": head.vault_id, "made_at": head.made, **_contents(contents)})
        return
    rows = sum(contents.rows.values())
    typer.echo(f"The archive is whole: {rows} rows of vault {head.vault_id}, as it was on {local_time(head.made)}.")


@commands.command(
    epilog=examples(
        "mcp-identity vault restore /backups/vault-monday",
        "MCP_IDENTITY_DATABASE_URL=postgresql://identity@db.example/identity mcp-identity vault restore vault-monday",
        "mcp-identity vault restore vault-monday --end-bearers --ask-again",
    )
)
def restore(
    context: typer.Context,
    file: FileArgument,
    end_bearers: Annotated[
        bool,
        typer.Option(
            "--end-bearers",
            help="Revoke every workload key, and end every token and browser session of users from before now: "
            "for a backup that is older than the revocation of one of them.",
        ),
    ] = False,
    ask_again: Annotated[
        bool,
        typer.Option(
            "--ask-again", help="Ask every user for consent again: for a backup that is older than a user's revocation."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Put a vault from an archive into the configured database, which must be empty, with the key that it was made under.

    The archive is read to its end before anything is written; nothing that is there is ever overwritten. The vault comes back
    as it was: what was revoked, disabled or changed since is as before, which this command says. Consents, sign-ins, handles
    and workload access tokens of that time end in any case.
    """
    from mcp_identity.app.moving import Wish
    from mcp_identity.app.moving import restore as put_back

    settings = settings_of(context)
    with shown(_TITLES, {}, quiet=json) as begun:
        report = put_back(settings, file, Wish(end_bearers=end_bearers, ask_again=ask_again), begun)
    if json:
        print_json(_restored(report))
        return
    made = local_time(report.head.made)
    typer.echo(
        f"Restored the vault as it was on {made}: {sum(report.contents.rows.values())} rows, the same as in the archive."
    )
    _say_unreadable(report.findings.unreadable)
    if ended := [_ENDED[name].format(count) for name, count in report.settled.detail().items()]:
        typer.echo(f"Ended: {', '.join(ended)}.")
    _say_what_came_back(report, made, end_bearers=end_bearers, ask_again=ask_again)


def _say_what_came_back(report: RestoreReport, made: str, *, end_bearers: bool, ask_again: bool) -> None:
    typer.echo(f"\nWhat was changed after {made} is as it was before:")
    if not ask_again:
        found = report.findings
        typer.echo(f"  - {found.active} grants of users; among them are those that were ended since")
        typer.echo(
            f"  - {found.refreshable} of them hold refresh tokens: where the vendor rotates them, those that were used since"
        )
        typer.echo("    are dead, and the user is asked for consent at the next use")
    if not end_bearers:
        typer.echo("  - workload keys that were revoked since work again: mcp-identity workloads keys NAME")
    typer.echo("  - providers, workloads and issuers that were changed, disabled or removed since: look through them")
    typer.echo("\nNext:\n  1. mcp-identity doctor, and start the servers\n  2. mcp-identity audit tail")
    typer.echo("  3. Never start what is left of the old vault: both would spend each other's refresh tokens.")


def _say_unreadable(unreadable: Mapping[str, int]) -> None:
    for name, count in unreadable.items():
        say(f"{count} rows of {name} do not authenticate, here as there: they were changed outside the product")


def _contents(contents: Contents) -> dict[str, Any]:
    tables = [{"table": name, "rows": count, "digest": contents.digests[name]} for name, count in contents.rows.items()]
    return {"rows": sum(contents.rows.values()), "tables": tables}


def _copied(report: CopyReport) -> dict[str, Any]:
    return {
        "vault_id": report.vault_id,
        "written": report.written,
        "resumed": report.resumed,
        "was_complete": report.was_complete,
        "checked": report.findings.checked,
        "unreadable": report.findings.unreadable,
        **_contents(report.contents),
    }


def _restored(report: RestoreReport) -> dict[str, Any]:
    return {
        "vault_id": report.head.vault_id,
        "made_at": report.head.made,
        "resumed": report.resumed,
        "active_grants": report.findings.active,
        "refreshable_grants": report.findings.refreshable,
        "ended": {name: int(count) for name, count in report.settled.detail().items()},
        "checked": report.findings.checked,
        "unreadable": report.findings.unreadable,
        **_contents(report.contents),
    }


def _size(count: int) -> str:
    amount, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if amount < _KIBI or unit == _UNITS[-1]:
            break
        amount /= _KIBI
    return f"{amount:.0f} {unit}" if unit == _UNITS[0] else f"{amount:.1f} {unit}"
