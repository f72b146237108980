"""`mcp-identity keys`: the keys that everything is sealed with, and the key that they are wrapped by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import anyio
import typer

from mcp_identity.cli.options import JsonOption, examples, globals_of
from mcp_identity.cli.output import local_time, print_facts, print_json, print_table, say
from mcp_identity.cli.progress import shown
from mcp_identity.cli.session import settings_of
from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.identity import DEFAULT_TENANT, NAME_RULE, is_name

if TYPE_CHECKING:
    from mcp_identity.app.keys import KeyDesk
    from mcp_identity.settings import Settings
    from mcp_identity.vault.key_life import KeyStatus, KeyVersion
    from mcp_identity.vault.rewrap import Rewrapped

T = TypeVar("T")
commands = typer.Typer(no_args_is_help=True, help="The keys that everything is sealed with: see, rotate, move, erase them.")
TenantOption = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="One tenant; without it, every tenant whose key is not erased.")
]
_TITLES = {"rewrapped": "Rewrapping", "moved": "Moving"}


@commands.command(epilog=examples("mcp-identity keys status", "mcp-identity keys status --tenant acme --json"))
def status(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="One tenant; without it, all of them.")] = None,
    json: JsonOption = False,
) -> None:
    """Show the key-encryption key, each tenant's versions, and how many records are under each of them still."""
    from mcp_identity.app import vault_location

    wanted, settings = _tenant(context, tenant), settings_of(context)
    found = _run(settings, lambda desk: desk.status(wanted))
    reference = vault_location(settings).key_source.where
    if json:
        print_json({"reference": reference} | _object(found))
        return
    print_facts({"key-encryption key": found.key_id, "reference": reference, "being moved to": found.coming_key_id})
    if found.coming_key_id:
        say("A move was begun and not finished; run it again: mcp-identity keys move --to REFERENCE")
    typer.echo()
    rows = [(name, *_row(version)) for name, versions in found.tenants.items() for version in versions]
    print_table(("tenant", "version", "state", "created", "records"), rows)


@commands.command(epilog=examples("mcp-identity keys rotate", "mcp-identity keys rotate --tenant acme"))
def rotate(context: typer.Context, tenant: TenantOption = None, json: JsonOption = False) -> None:
    """Make a new version of a tenant's key. What is sealed from now on is under it; what was sealed stays readable.

    Every running server follows at once. `keys rewrap` brings the older records under it, too.
    """

    async def errand(desk: KeyDesk) -> dict[str, int]:
        return {name: await desk.rotate(name) for name in await _tenants(context, desk, tenant)}

    made = _run(settings_of(context), errand)
    if json:
        print_json(made)
        return
    for name, version in made.items():
        typer.echo(f"The key of the tenant {name} has version {version} now.")
    if not made:
        say("There is no tenant whose key is not erased.")
        return
    typer.echo("\nNext:\n  mcp-identity keys rewrap")


@commands.command(
    epilog=examples(
        "mcp-identity keys rewrap",
        "mcp-identity keys rewrap --tenant acme --batch 1000",
        "mcp-identity keys rewrap --remove-old",
    )
)
def rewrap(
    context: typer.Context,
    tenant: TenantOption = None,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, max=10_000, help="Records of one transaction.")] = 200,
    remove_old: Annotated[
        bool, typer.Option("--remove-old", help="Then erase the versions that nothing is under any more, for good.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Bring every record under its tenant's newest key, while servers go on working.

    It may be stopped at any time and run again. Where the key backend has versions of its own (a transit engine, a KMS), the
    tenants' keys are brought under its newest one first.
    """
    done: dict[str, tuple[Rewrapped, int]] = {}

    async def errand(desk: KeyDesk) -> None:
        names = await _tenants(context, desk, tenant)
        await desk.refresh_own()
        with shown(_TITLES, {}, quiet=json) as begun:
            advance = begun(await _older(desk, names))
            for name in names:
                moved = await desk.rewrap(name, batch, lambda table, rows: advance("rewrapped", table, rows))
                done[name] = moved, await desk.remove_old(name) if remove_old else 0

    _run(settings_of(context), errand)
    if json:
        print_json({name: _outcome(*each) for name, each in done.items()})
    for name, (moved, removed) in done.items() if not json else ():
        typer.echo(
            f"{name}: {moved.moved} records came under the newest key{f', {removed} versions erased' if removed else ''}."
        )
        if moved.unreadable:
            tables = ", ".join(f"{count} of {table}" for table, count in moved.unreadable.items())
            say(f"{name}: left as they were, because they were changed outside the product: {tables}; see: mcp-identity doctor")
        if moved.left:
            say(f"{name}: {moved.left} records are under an older key still; run it again.")
    if any(moved.left or moved.unreadable for moved, _ in done.values()):
        raise typer.Exit(1)


@commands.command(
    epilog=examples(
        "mcp-identity keys move --to aws-kms:alias/mcp-identity?region=eu-west-1",
        "mcp-identity keys move --to keyring:mcp-identity/default",
        "mcp-identity keys move --to file:/etc/mcp-identity/key",
    )
)
def move(
    context: typer.Context,
    to: Annotated[str, typer.Option("--to", metavar="REFERENCE", help="The other key-encryption key, as in MCP_IDENTITY_KEY.")],
    json: JsonOption = False,
) -> None:
    """Bring the vault under another key-encryption key: its keys are wrapped anew, no record is touched.

    A file or a keyring entry that is not there yet is made. It may be stopped at any time: the vault then opens with the old
    reference or with the new one, and the same command finishes the move.
    """

    async def errand(desk: KeyDesk) -> tuple[int, str]:
        with shown(_TITLES, {}, quiet=json) as begun:
            keys = sum(len(each) for each in (await desk.status(None)).tenants.values())
            advance = begun(keys + 1)
            moved = await desk.move(to, lambda table, rows: advance("moved", table, rows))
        return moved, (await desk.status(None)).key_id

    moved, key_id = _run(settings_of(context), errand)
    if json:
        print_json({"keys": moved, "key_id": key_id})
        return
    typer.echo(f"Moved {moved} keys." if moved else "The vault is there already.")
    print_facts({"key-encryption key": key_id})
    typer.echo(
        f"\nNext:\n  Set MCP_IDENTITY_KEY={to} for everything that opens this vault, and restart it within 15 minutes.\n"
        "  Move a key file out of the vault's folder; keep the old key as long as you keep backups that were made under it."
    )


@commands.command(epilog=examples("mcp-identity keys erase --tenant acme --yes"))
def erase(
    context: typer.Context,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="The tenant whose key is erased.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; nobody can undo it.")] = False,
) -> None:
    """Erase a tenant's key, for good: nobody can read what it protected any more, on any server, from this moment on.

    Its records stay as they are, and so does the trail. A backup of the vault that was made before still has the key, under
    the key-encryption key of that time.
    """
    name = _tenant(context, tenant) or DEFAULT_TENANT
    if not yes:
        raise InvalidRequest(f"this makes every secret of the tenant {name} unreadable, for good; say --yes if that is meant")
    versions = _run(settings_of(context), lambda desk: desk.erase(name))
    typer.echo(f"Erased the key of the tenant {name} ({versions} versions). What it protected is gone.")


def _run(settings: Settings, errand: Callable[[KeyDesk], Awaitable[T]]) -> T:
    """Open the vault, run an errand on its keys, and close it."""

    async def work() -> T:
        from mcp_identity.app.keys import open_keys

        outcome: list[T] = []
        failure: Exception | None = None
        async with open_keys(settings) as desk:
            try:
                outcome.append(await errand(desk))
            except Exception as error:  # noqa: BLE001 - kept out of the task groups, which would wrap it; raised again below
                failure = error
        if failure is not None:
            raise failure
        return outcome[0]

    return anyio.run(work)


def _tenant(context: typer.Context, given: str | None) -> str | None:
    """The tenant that is meant, said here or before the command; None for all."""
    before = globals_of(context).tenant
    name = given or (before if before != DEFAULT_TENANT else None)
    if name is not None and not is_name(name):
        raise InvalidRequest(f"the tenant is no name: {NAME_RULE}")
    return name


async def _tenants(context: typer.Context, desk: KeyDesk, given: str | None) -> tuple[str, ...]:
    name = _tenant(context, given)
    return (name,) if name else await desk.tenants()


async def _older(desk: KeyDesk, names: tuple[str, ...]) -> int:
    """How many records are under older versions, as a progress bar needs it."""
    found = (await desk.status(None)).tenants
    return sum(version.records for name in names for version in found.get(name, ())[:-1])


def _outcome(moved: Rewrapped, removed: int) -> dict[str, object]:
    return {"moved": moved.moved, "unreadable": dict(moved.unreadable), "left": moved.left, "removed_versions": removed}


def _row(version: KeyVersion) -> tuple[str, ...]:
    return str(version.version), version.state, local_time(version.created_at), str(version.records)


def _object(found: KeyStatus) -> dict[str, object]:
    return {
        "key_id": found.key_id,
        "coming_key_id": found.coming_key_id,
        "tenants": {
            name: [
                {"version": each.version, "state": each.state, "created_at": each.created_at, "records": each.records}
                for each in versions
            ]
            for name, versions in found.tenants.items()
        },
    }
