"""Which references lie in a place that an operator listed, and which only look as if they did?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.secret_source import parse_sources

VARIABLES = parse_sources(("acme=env:ACME_",))[0]
FILES = parse_sources(("acme=file:/run/secrets/acme/",))[0]


@pytest.mark.parametrize("reference", ["env:ACME_KEY", "env:ACME_a", "env:ACME_1"])
def test_a_variable_of_the_prefix_is_in_the_place(reference: str) -> None:
    assert VARIABLES.covers(reference)
    assert not FILES.covers(reference)


@pytest.mark.parametrize(
    "reference",
    [
        "", "env:", "env:ACME_", "env:acme_key", "env:XACME_KEY", " env:ACME_KEY", "env: ACME_KEY", "ENV:ACME_KEY", "ACME_KEY",
        "env:ACME_KEY ", "env:ACME_KEY\n", "env:ACME_K\0EY", "env:ACME_=x", "env:ACME_ÄX", "file:ACME_KEY", "env:ACME",
        "env:ACME_" + "x" * 300,
    ],
)  # fmt: skip
def test_what_only_looks_like_a_variable_of_the_prefix_is_not(reference: str) -> None:
    assert not VARIABLES.covers(reference)


@pytest.mark.parametrize(
    "reference", ["file:/run/secrets/acme/a", "file:/run/secrets/acme/a b/c.json", "file:/run/secrets/acme/ü"]
)
def test_a_path_below_the_folder_is_in_the_place(reference: str) -> None:
    assert FILES.covers(reference)


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/run/secrets/acme", "/run/secrets/acme/", "/run/secrets/acme-other/x", "/run/secrets/acme/../other/x",
        "/run/secrets/acme/./x", "/run/secrets/acme//x", "/run/secrets/acme/x/", "/run/secrets/acme/..", "/run/secrets/ACME/x",
        "run/secrets/acme/x", "./run/secrets/acme/x", "~/x", "//run/secrets/acme/x", "/run//secrets/acme/x",
        "/run/secrets/acme/x\0", "/run/secrets/acme/x\n", "/run/secrets/acme/\u202ex", "/run/secrets/acme/x\\..\\y",
        "/run/secrets/acme/x:stream", "C:/run/secrets/acme/x", "/etc/passwd", "/run/secrets/acme/" + "x/" * 3000 + "x",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_path_below_the_folder_is_not(path: str) -> None:
    assert not FILES.covers(f"file:{path}")


@given(st.text(max_size=64))
def test_nothing_leads_upwards(tail: str) -> None:
    import posixpath

    reference = f"file:/run/secrets/acme/{tail}"
    if FILES.covers(reference):
        assert posixpath.normpath(reference.removeprefix("file:")) == reference.removeprefix("file:")


@pytest.mark.parametrize("name", ["MCP_IDENTITY_KEY", "mcp_identity_database_url", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"])
def test_what_opens_the_vault_is_in_no_place(name: str) -> None:
    prefix = name.partition("_")[0] + "_" if "_" in name else "P_"
    for listed in (prefix, "M_", "A_", "P_"):
        try:
            place = parse_sources((f"acme=env:{listed}",))[0]
        except ValueError:
            continue
        assert not place.covers(f"env:{name}")


@pytest.mark.parametrize(
    "given_",
    [
        "ACME_", "env:ACME_", "acme=", "acme=env:", "acme=env:ACME", "acme=env:_ =", "=env:ACME_", "Acme=env:ACME_",
        "acme=vault:ACME_", "acme=env:MCP_IDENTITY_", "acme=env:AWS_", "acme=env:PG_", "acme=file:", "acme=file:/", "acme=file://",
        "acme=file:relative/", "acme=file:~/secrets/", "acme=file:/proc/", "acme=file:/proc/self/", "acme=file:/dev/",
        "acme=file:/sys/kernel", "acme=file:/run/../etc/", "acme=file:/run/./x/", "acme=file:C:\\secrets\\",
    ],
)  # fmt: skip
def test_what_is_no_place_is_refused_when_the_settings_are_read(given_: str) -> None:
    with pytest.raises(ValueError, match="TENANT=env"):
        parse_sources((given_,))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("acme=env:ACME_", "other=env:ACME_"),
        ("acme=env:ACME_", "other=env:ACME_OTHER_"),
        ("acme=env:ACME_OTHER_", "other=env:acme_"),
        ("acme=file:/run/secrets/", "other=file:/run/secrets/other"),
        ("acme=file:/run/Secrets/", "other=file:/run/secrets/other/deep/"),
    ],
)
def test_no_tenant_reads_what_is_anothers(one: str, other: str) -> None:
    for pair in ((one, other), (other, one)):
        with pytest.raises(ValueError, match="one another's secrets"):
            parse_sources(pair)


def test_one_tenant_may_have_several_places_and_places_beside_one_another_are_apart() -> None:
    places = ("acme=env:ACME_", "acme=env:ACME_OLD_", "acme=file:/run/secrets/acme", "other=file:/run/secrets/acme-other/")
    assert [each.prefix for each in parse_sources(places)] == [
        "ACME_",
        "ACME_OLD_",
        "/run/secrets/acme/",
        "/run/secrets/acme-other/",
    ]
