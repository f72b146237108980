"""Do the servers of the tests start and end as promised, and is one that cannot start said aloud?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers import servers
from tests.peers.processes import running
from tests.peers.servers import AUTHORIZATION_SERVER, NODE_PEER, find_node


def test_a_server_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    for program in ([sys.executable, AUTHORIZATION_SERVER, "--directory", tmp_path], [find_node(), NODE_PEER / "server.mjs"]):
        command = [*map(str, program), "--stop-when-input-ends"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
            assert server.stdout is not None
            assert server.stdin is not None
            assert server.stdout.readline().startswith(b"{")
            server.stdin.close()
            assert server.wait(5) == 0


def test_a_server_that_does_not_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(RuntimeError, match="no such thing"), running([sys.executable, "-c", "exit('no such thing')"], log=log):
        pass


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_an_absent_node_is_said_and_on_a_ci_machine_a_failure(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package.json").touch()
    monkeypatch.setattr(servers, "NODE_PEER", tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="Node is not installed: the node-oidc-provider peer is left out"):
        find_node()
