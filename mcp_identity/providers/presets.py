"""What do the tokens of a company's identity provider look like, by its vendor?

Reads `issuers/<name>.toml`, one file a vendor. What it says is pinned in an issuer's row when that is added, so a changed
file changes no issuer. Makes no exception for any vendor: what is special about one is a field of `TokenRules`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.issuer import IssuerPreset

DEFAULT_PRESET = "oidc"


@cache
def load() -> Mapping[str, IssuerPreset]:
    """All presets by name, sorted."""
    folder = files("mcp_identity.providers") / "issuers"
    found = (
        IssuerPreset.model_validate(tomllib.loads(entry.read_text("utf-8")))
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )
    return MappingProxyType({preset.name: preset for preset in sorted(found, key=lambda each: each.name)})


def find(name: str) -> IssuerPreset | None:
    """The preset of this name, or None."""
    return load().get(name)


def get(name: str = DEFAULT_PRESET) -> IssuerPreset:
    """The preset of this name.

    Raises:
        InvalidRequest: If there is none; the message names those that look alike.
    """
    preset = find(name)
    if preset is None:
        near = get_close_matches(name[:128].lower(), load(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(load())}"
        raise InvalidRequest(f"no issuer preset is called {name[:64]!r}; {hint}")
    return preset
