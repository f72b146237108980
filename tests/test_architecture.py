"""Does the house still stand as it was drawn? Every module is read, none is run."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = "mcp_identity"
LINES = 400

EDGES = frozenset({"tools", "web", "agentcore"})
LAYERS = frozenset({"providers", "vault", "oauth", "transport", "settings", "inbound", "broker"}) | EDGES
MAY_IMPORT: dict[str, frozenset[str]] = {
    "__init__": frozenset({"app", "sdk", "settings", "domain"}),
    "__main__": frozenset({"cli"}),
    "cli": frozenset({"app", "settings", "broker", "domain"}),
    "app": LAYERS | {"domain"},
    **dict.fromkeys(EDGES, frozenset({"broker", "inbound", "domain"})),
    "broker": frozenset({"providers", "vault", "oauth", "transport", "domain"}),
    "inbound": frozenset({"vault", "oauth", "transport", "domain"}),
    **dict.fromkeys(("providers", "vault", "oauth", "transport", "settings"), frozenset({"domain"})),
    "sdk": frozenset({"domain", "settings"}),
    "domain": frozenset(),
}
"""Which room may use which other; every room may use itself."""

HTTP_CLIENTS = ("httpx", "httpx2", "requests", "aiohttp", "urllib3", "urllib.request", "http.client", "websockets", "httpcore")
KEEPERS: dict[tuple[str, ...], tuple[str, ...]] = {
    HTTP_CLIENTS: ("transport.py", "sdk/"),
    ("sqlmodel", "sqlalchemy", "alembic", "sqlite3", "psycopg"): ("vault/",),
    ("boto3", "botocore", "hvac", "pkcs11", "keyring"): ("vault/kms/",),
    ("asyncio", "trio"): (),
    ("mcp",): ("tools/", "sdk/", "app/", "cli/serve.py"),
    ("typer", "rich", "click"): ("cli/",),
}
"""Who alone may import a library."""

MAY_REVEAL = frozenset(
    {
        "oauth/client_auth.py",  # the client's secret, into its request
        "oauth/token.py",  # codes, verifiers and refresh tokens, into theirs
        "oauth/on_behalf.py",  # the user's own token, into its exchange
        "oauth/authorization.py",  # the PKCE challenge is made of the verifier
        "oauth/revocation.py",  # the token that is to end
        "oauth/identity_token.py",  # the key that signs
        "domain/workload_key.py",  # the digest is made of the key
        "vault/envelope.py",
        "vault/keys.py",
        "vault/kms/local.py",
        "vault/kms/pkcs11.py",  # the PIN, into its token
        "vault/kms/transit.py",  # token and secret id, to their server
        "vault/stores/postgres_url.py",  # the database's password, to its driver
        "vault/records/access_keys.py",  # into sealed cells
        "vault/records/consents.py",
        "vault/records/issuers.py",
        "vault/records/logins.py",  # the verifier, into its sealed cell
        "vault/records/providers.py",
        "vault/records/signing_keys.py",
        "vault/records/token_cell.py",
        "broker/release.py",  # the one door
        "broker/exchange.py",  # the ID token, to be verified
        "broker/calls.py",  # into the upstream request
        "tools/results.py",  # the answer itself
        "tools/releases.py",  # likewise, to agent code
        "agentcore/answers.py",  # the answer itself, to agent code
        "inbound/authentication.py",  # what callers bring, to be read
        "inbound/workload_tokens.py",  # the user's own token, into the sealed one
        "inbound/sigv4.py",  # the signing key is made of the secret
        "inbound/login.py",  # the ID token, to be verified
        "web/consent.py",  # the browser's cookies
        "web/browser_session.py",
        "web/login.py",
        "cli/tokens.py",  # the answer itself, on a terminal
        "cli/access_keys.py",  # a new secret, on a terminal, once
        "cli/workloads.py",  # a new key, on a terminal, once
        "settings.py",
    }
)


@dataclass(frozen=True)
class Module:
    """One file of the product, as text and as a tree."""

    path: Path

    @cached_property
    def place(self) -> str:
        """Where it is, below the package."""
        return self.path.relative_to(ROOT / NAME).as_posix()

    @cached_property
    def name(self) -> str:
        """What it is imported as."""
        parts = (NAME, *Path(self.place).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def room(self) -> str:
        """The folder, or the single file, directly below the package."""
        return Path(self.place).with_suffix("").parts[0]

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Everything that runs; what stands under TYPE_CHECKING does not."""
        return list(_running(self.tree))

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """Line and full name of everything imported, inside functions too."""
        found: list[tuple[int, str]] = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.place}:{node.lineno}: relative imports hide where they go"
                found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        return found

    def at(self, line: int) -> str:
        return f"{self.place}:{line}"


def _running(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield from _running(other)
        else:
            yield from _running(child)


def modules_below(folder: Path) -> list[Module]:
    return [Module(path) for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts]


MODULES = modules_below(ROOT / NAME)
BY_NAME = {module.name: module for module in MODULES}


def target(imported: str) -> str | None:
    """The module of ours that an imported name is, or is in."""
    if not f"{imported}.".startswith(f"{NAME}."):
        return None
    while imported not in BY_NAME:
        imported = imported.rpartition(".")[0]
    return imported


def is_in(place: str, allowed: tuple[str, ...]) -> bool:
    return any(place.startswith(each) if each.endswith("/") else place == each for each in allowed)


def test_every_room_is_one_that_was_drawn() -> None:
    assert {module.room for module in MODULES} <= MAY_IMPORT.keys()


def test_every_room_uses_only_the_rooms_that_it_may() -> None:
    wrong: list[str] = []
    for module in MODULES:
        for line, imported in module.imports:
            found = target(imported)
            if found is None or found == NAME:
                continue
            room = BY_NAME[found].room
            if room != module.room and room not in MAY_IMPORT[module.room]:
                wrong.append(f"{module.at(line)} imports {imported}")
    assert wrong == []


def test_the_domain_knows_the_standard_library_and_pydantic_alone() -> None:
    known = sys.stdlib_module_names | {NAME, "pydantic"}
    strange = [m.at(line) for m in MODULES if m.room == "domain" for line, name in m.imports if name.split(".")[0] not in known]
    assert strange == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        module.name: {found for _, imported in module.imports if (found := target(imported)) and found != module.name}
        for module in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(" → ".join(cycle.args[1]))


@pytest.mark.parametrize("libraries", KEEPERS, ids=" ".join)
def test_a_library_is_imported_only_by_who_keeps_it(libraries: tuple[str, ...]) -> None:
    wrong = [
        f"{module.at(line)} imports {imported}"
        for module in MODULES
        for line, imported in module.imports
        if any(f"{imported}.".startswith(f"{library}.") for library in libraries)
        if not is_in(module.place, KEEPERS[libraries])
    ]
    assert wrong == []


def test_only_the_settings_read_the_environment() -> None:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    wrong: list[str] = []
    for module in MODULES:
        wrong += [module.at(line) for line, imported in module.imports if imported in {f"os.{name}" for name in names}]
        for node in module.nodes:
            if isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os":
                wrong.append(module.at(node.lineno))
    assert [each for each in wrong if not each.startswith("settings.py:")] == []


def test_a_secret_is_revealed_only_where_it_is_used() -> None:
    wrong = [
        module.at(node.lineno)
        for module in MODULES
        if module.place not in MAY_REVEAL | {"domain/credentials.py"}
        for node in module.nodes
        if isinstance(node, ast.Attribute) and node.attr in ("reveal", "_value")
    ]
    assert wrong == []


def test_nobody_asks_the_clock_or_the_dice_but_through_their_seams() -> None:
    """`app/` makes the real ones; the locks wait by the clock of the machine, which no test needs to move."""
    calls = re.compile(
        r"(datetime\.)?datetime\.(now|utcnow|today)|time\.(time|time_ns|monotonic)|os\.urandom|secrets\.\w+|random\.\w+|uuid\.uuid\d"
    )
    wrong = [
        module.at(node.lineno)
        for module in MODULES
        if module.place not in ("app/__init__.py", "vault/locks.py") and module.room != "cli"
        for node in module.nodes
        if isinstance(node, ast.Call) and calls.fullmatch(ast.unparse(node.func))
    ]
    assert wrong == []


def vendors() -> set[str]:
    """The names of the vendors' files; `custom` and `api-key` are no vendors but the ways to describe one's own."""
    return {path.stem for path in (ROOT / NAME / "providers" / "data").glob("*.toml")} - {"custom", "api-key"}


def test_nothing_is_decided_by_the_name_of_a_vendor() -> None:
    names = vendors()
    assert "github" in names
    wrong: list[str] = []
    for module in MODULES:
        for node in module.nodes:
            values: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                values = [node.left, *node.comparators]
            elif isinstance(node, ast.MatchValue):
                values = [node.value]
            elif isinstance(node, ast.Dict):
                values = [key for key in node.keys if key is not None]
            constants = {each.value for value in values for each in ast.walk(value) if isinstance(each, ast.Constant)}
            if constants & names:
                wrong += [module.at(value.lineno) for value in values[:1]]
    assert wrong == []


def test_names_are_matched_from_end_to_end() -> None:
    """`re.match` lets a tail through, and `$` a line break: patterns that decide use `fullmatch`."""
    wrong = [
        module.at(node.lineno)
        for module in MODULES
        for node in module.nodes
        if isinstance(node, ast.Call)
        if ast.unparse(node.func) == "re.match" or ast.unparse(node.func).endswith("_PATTERN.match") or _ends_open(node)
    ]
    assert wrong == []


def _ends_open(call: ast.Call) -> bool:
    """Whether this is a call of `re` with a pattern that ends in a dollar sign."""
    pattern = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    return (
        ast.unparse(call.func).startswith("re.") and isinstance(pattern, str) and re.search(r"(?<!\\)\$\Z", pattern) is not None
    )


SECRET_NAMES = re.compile(r"(.*_)?(hash|secret|token|state|nonce|verifier|proof|cookie|mac)", re.IGNORECASE)
NO_SECRETS = ("ConsentState", "GrantState", "Proof.")


def test_nothing_secret_is_compared_in_a_time_that_tells_how_much_of_it_was_right() -> None:
    wrong: list[str] = []
    for module in MODULES:
        if module.room not in ("broker", "web", "inbound", "oauth"):
            continue
        for node in module.nodes:
            if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
                continue
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Constant) or ast.unparse(side).startswith(NO_SECRETS) for side in sides):
                continue
            last = [ast.unparse(side).rpartition(".")[2] for side in sides]
            if any(SECRET_NAMES.fullmatch(name) for name in last):
                wrong.append(f"{module.at(node.lineno)} {ast.unparse(node)}")
    assert wrong == []


def test_every_module_says_what_it_is() -> None:
    assert [module.place for module in MODULES if not ast.get_docstring(module.tree)] == []


@pytest.mark.parametrize("folder", [NAME, "examples", "benchmarks"])
def test_no_module_is_longer_than_one_sitting(folder: str) -> None:
    found = [path for path in (ROOT / folder).rglob("*.py") if "node_modules" not in path.parts]
    assert [path.name for path in found if len(path.read_text("utf-8").splitlines()) > LINES] == []


def test_no_text_goes_to_standard_output_but_from_the_command_line() -> None:
    wrong = [
        module.at(node.lineno)
        for module in MODULES
        if module.room != "cli"
        for node in module.nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stdout.buffer.write")
        if "file=sys.stderr" not in ast.unparse(node)
    ]
    assert wrong == []


def test_these_rules_see_what_they_forbid(tmp_path: Path) -> None:
    text = "if TYPE_CHECKING:\n    import asyncio\nelse:\n    import json\ndef f():\n    from os import environ\n"
    (tmp_path / "m.py").write_text(text)
    assert [name for _, name in Module(tmp_path / "m.py").imports] == ["json", "os.environ"]
