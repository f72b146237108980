"""Do lines arrive as they were sent, however a pipe cuts them, and does an answer wait for a reader that is slow?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest

from mcp_identity.app.pipes import Lines, Output

Pair = tuple[int, int]


@pytest.fixture(params=["pipe", "socket"])
def pair(request: pytest.FixtureRequest) -> Generator[Pair]:
    """The end to read from, and the one to write to."""
    if request.param == "pipe":
        ends = os.pipe()
    else:
        reading, writing = socket.socketpair()
        ends = reading.detach(), writing.detach()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


async def test_lines_arrive_whole_however_they_were_cut(pair: Pair) -> None:
    reading, writing = pair
    lines = Lines(reading)
    os.write(writing, b'{"a":1}\n{"b":')
    assert await anext(lines) == '{"a":1}\n'
    os.write(writing, '2,"ü":"'.encode()[:-3])
    os.write(writing, '2,"ü":"'.encode()[-3:] + b'x"}\r\nlast')
    assert await anext(lines) == '{"b":2,"ü":"x"}\r\n'
    os.close(writing)
    assert [line async for line in lines] == ["last"]


async def test_what_came_at_once_is_given_without_waiting(pair: Pair) -> None:
    reading, writing = pair
    sent = [f"line {number}\n" for number in range(1000)]
    os.write(writing, "".join(sent).encode())
    os.close(writing)
    assert [line async for line in Lines(reading)] == sent


async def test_a_line_of_a_megabyte_and_bytes_that_are_no_text_are_read(pair: Pair) -> None:
    reading, writing = pair
    sent = b"x" * 1_000_000 + b"\n" + b"\xff\xfe\n"
    got: list[str] = []

    def write() -> None:
        view = memoryview(sent)
        while view:
            view = view[os.write(writing, view) :]
        os.close(writing)

    async def read() -> None:
        got.extend([line async for line in Lines(reading)])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.to_thread.run_sync(write)
    assert [len(line) for line in got] == [1_000_001, 3]
    assert got[1] == "\ufffd\ufffd\n"


async def test_waiting_for_a_line_can_be_cancelled(pair: Pair) -> None:
    with anyio.move_on_after(0.01) as scope:
        await anext(Lines(pair[0]))
    assert scope.cancelled_caught


async def test_an_answer_waits_for_a_slow_reader_and_everything_else_goes_on(pair: Pair) -> None:
    reading, writing = pair
    text = "y" * 1_000_000
    other_work: list[str] = []

    async def answer() -> None:
        output = Output(writing)
        await output.write(text)
        await output.flush()
        os.close(writing)

    got = bytearray()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        await anyio.wait_all_tasks_blocked()
        other_work.append("done while nobody read")
        while chunk := await anyio.to_thread.run_sync(os.read, reading, 100_000):
            got += chunk
    assert bytes(got).decode() == text
    assert other_work


async def test_a_reader_that_is_gone_is_an_error_of_the_operating_system(pair: Pair) -> None:
    reading, writing = pair
    os.close(reading)
    output = Output(writing)
    await output.write("x\n")
    with pytest.raises(OSError, match=r".*"):
        await output.flush()


def test_a_file_is_served_too(tmp_path: Path) -> None:
    asked = tmp_path / "requests"
    asked.write_text(
        '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
        '"clientInfo":{"name":"file","version":"1"}}}\n'
    )
    environment = {**os.environ, "MCP_IDENTITY_HOME": str(tmp_path / "home")}
    with asked.open("rb") as requests:
        done = subprocess.run(
            [sys.executable, "-m", "mcp_identity", "serve"],
            stdin=requests,
            capture_output=True,
            env=environment,
            check=False,
            timeout=60,
        )
    assert b'"id":1' in done.stdout
    assert done.returncode == 0
