"""What is said of each vendor's tokens: complete, closed, and never a way to be somebody else."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.issuer import Issuer, IssuerPreset, TokenRules
from mcp_identity.providers import presets

NAMES = ("auth0", "cognito", "entra", "google", "oidc", "okta")
ROOT = Path(__file__).parents[2]


def test_the_presets_are_these_and_each_is_one_file() -> None:
    assert tuple(presets.load()) == NAMES
    folder = ROOT / "mcp_identity" / "providers" / "issuers"
    assert sorted(path.stem for path in folder.iterdir()) == list(NAMES)
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mcp_identity"]
    assert "providers/issuers/*.toml" in packaged


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_where_its_facts_come_from_and_what_to_know(name: str) -> None:
    preset = presets.get(name)
    assert preset.name == name
    assert preset.title
    assert preset.documentation.startswith("https://")
    assert date.fromisoformat(preset.checked)
    assert preset.notes
    assert all(note.endswith(".") for note in preset.notes)


@pytest.mark.parametrize("name", NAMES)
def test_no_preset_knows_a_user_by_a_name_or_verifies_with_a_shared_key(name: str) -> None:
    rules = presets.get(name).rules
    assert not {"email", "upn", "preferred_username"} & {*rules.access_subject, *rules.id_subject}
    assert not any(algorithm.startswith(("HS", "none")) for algorithm in rules.algorithms)
    assert len(set(rules.algorithms)) == len(rules.algorithms)
    assert rules.audience_required or rules.client_claims


@pytest.mark.parametrize(
    "fields",
    [
        {"algorithms": ["HS256"]},
        {"algorithms": ["RS256", "none"]},
        {"algorithms": []},
        {"access_subject": ["email"]},
        {"access_subject": []},
        {"id_subject": ["sub", "upn"]},
        {"made_up": True},
    ],
)
def test_rules_that_would_let_somebody_else_in_are_no_rules(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TokenRules.model_validate(fields)
    with pytest.raises(ValidationError):
        IssuerPreset.model_validate({"name": "x", "title": "X", "rules": fields})


@pytest.mark.parametrize(("name", "near"), [("entr", "entra"), ("Cognito", "cognito"), ("made-up", "auth0"), ("", "oidc")])
def test_an_unknown_preset_names_those_that_look_alike(name: str, near: str) -> None:
    assert presets.find(name) is None
    with pytest.raises(InvalidRequest, match=near):
        presets.get(name)


@pytest.mark.parametrize(
    ("issuer", "values", "value", "expected"),
    [
        ("https://a", (), "", {"https://a"}),
        ("https://a", (), "x", {"https://a"}),
        ("https://a/{tid}/v2", (), "x", set[str]()),
        ("https://a/{tid}/v2", ("x", "y"), "x", {"https://a/x/v2", "https://s/x/"}),
        ("https://a/{tenantid}/v2", ("x",), "x", {"https://a/x/v2", "https://s/x/"}),
        ("https://a/{tid}/v2", ("x",), "z", set[str]()),
        ("https://a/{tid}/v2", ("x",), "", set[str]()),
        ("https://a/x/v2", ("x",), "x", {"https://a/x/v2", "https://s/x/"}),
    ],
)
def test_an_issuer_speaks_only_for_the_organisations_that_were_named(
    issuer: str, values: tuple[str, ...], value: str, expected: set[str]
) -> None:
    rules = TokenRules(issuer_templates=("https://s/{tid}/",), discriminator="tid")
    row = Issuer("id", "t", "n", "p", issuer, "", "", discriminator_values=frozenset(values), rules=rules)
    assert row.issuers_for(value) == expected
