"""Do log lines go to stderr, one a record, without what they must not hold?"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from mcp_identity.cli.logs import QUIET, configure_logging

log = logging.getLogger("mcp_identity.made_up")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def _fail() -> None:
    hidden = "a-secret-in-a-local"
    try:
        {}["a-secret-in-a-message"]
    except KeyError as cause:
        raise ValueError(hidden) from cause


def test_a_line_for_people_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "human")
    log.info("hello %s", "one\ntwo\x1b[2J\u202e")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"\d\d:\d\d:\d\d info mcp_identity\.made_up: hello one\\ntwo\\x1b\[2J\\u202e\n", shown.err)


def test_a_line_for_machines_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    log.warning("hello %s", "one\ntwo")
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    line = json.loads(shown.err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {"level": "WARNING", "logger": "mcp_identity.made_up", "message": "hello one\ntwo"}


@pytest.mark.parametrize("form", ["human", "json"])
def test_of_an_exception_only_types_and_places_are_told(capsys: pytest.CaptureFixture[str], form: str) -> None:
    configure_logging("DEBUG", form)
    try:
        _fail()
    except ValueError:
        log.exception("it failed", stack_info=True)
    shown = capsys.readouterr().err
    assert "ValueError from KeyError at test_logs.py" in shown
    assert "in _fail" in shown
    assert "a-secret" not in shown
    assert shown.count("\n") == 1


def test_what_is_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("WARNING", "human")
    log.info("quiet")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", QUIET)
def test_others_do_not_tell_of_requests_and_statements(capsys: pytest.CaptureFixture[str], name: str) -> None:
    configure_logging("DEBUG", "human")
    logging.getLogger(name).info("GET https://a.example.com/?code=x")
    assert capsys.readouterr().err == ""


def test_nobody_else_tells_of_what_is_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", "human")
    other = logging.getLogger("somebody.else")
    other.info("the answer was a-secret")
    logging.getLogger("mcp_identity_not").info("the answer was a-secret")
    other.warning("it is slow")
    shown = capsys.readouterr().err
    assert "it is slow" in shown
    assert "a-secret" not in shown


def test_setting_it_up_again_says_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "human")
    configure_logging("INFO", "human")
    log.info("once")
    assert capsys.readouterr().err.count("once") == 1
