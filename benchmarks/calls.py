"""What does it cost that a call goes through us? `call_api` of an API on this machine, ours against a direct request.

The upstream is a bare HTTP server of one process; the direct requests are made with httpx2, over a connection of their own
each, as ours are, and over one that is kept. A call of ours finds its token in the vault, writes two rows to the trail with
two durable commits, and searches the answer for the token. Runs alternate, so that whatever else the machine does hits all
alike; the ratio of the medians is what counts, and the milliseconds are this machine's. Over a real network every request
takes the same round trips more on each side, so the ratio is the worst there is.

    python benchmarks/calls.py [--runs 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median, quantiles

import anyio
import httpx2

from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.domain.api_call import ApiAnswer, ApiRequest
from mcp_identity.domain.credentials import Secret
from mcp_identity.settings import Settings

LEAST_RUNS = 50
SIZES = {"1 KiB": 1024, "1 MiB": 1 << 20}
TOKENS = b'{"access_token":"made-up-access-token-of-usual-length-0123456789","token_type":"Bearer","expires_in":3600}'
DIRECT, KEPT, OURS = "direct, a connection each", "direct, a kept connection", "call_api"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one way to call; milliseconds."""

    median: float
    min: float
    p90: float


class _Upstream(BaseHTTPRequestHandler):
    """Gives tokens, and as many bytes of JSON as the path says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """The token endpoint."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._say(TOKENS)

    def do_GET(self) -> None:
        """The API."""
        self._say(b'{"text": "' + b"x" * (int(self.path.lstrip("/")) - 12) + b'"}')

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""
        del format, args


def serve(port: int) -> None:
    """Be the upstream, in a process of its own, for ever."""
    ThreadingHTTPServer(("127.0.0.1", port), _Upstream).serve_forever()


async def measure(port: int, runs: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every call, by size and way, in alternation, after a few that fill the caches."""
    origin = f"http://127.0.0.1:{port}"
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as home:
        async with app.open(Settings(home=Path(home))) as graph, httpx2.AsyncClient(trust_env=False) as client:
            broker = graph.broker
            spec = ProviderSpec(
                vendor="custom",
                settings={"token_url": f"{origin}/token", "flows": "M2M"},
                client_id="bench",
                secret=Secret("bench"),
                release="never",
                api_hosts=(origin,),
                allow_http_loopback=True,
            )
            operator = broker.directory.operator(graph.user)
            await broker.directory.add(broker.call(operator, "create_provider"), "bench", spec)
            principal = await broker.directory.local_principal("bench", graph.user, "stdio")

            async def ours(url: str) -> int:
                answer = await broker.call_api(broker.call(principal, "call_api"), ApiRequest("bench", url=url))
                if not isinstance(answer, ApiAnswer):
                    raise TypeError("client credentials need no consent")
                return answer.status

            async def direct(url: str) -> int:
                async with httpx2.AsyncClient(trust_env=False, verify=False) as fresh:
                    return (await fresh.get(url, headers={"Authorization": "Bearer x"})).status_code

            async def kept(url: str) -> int:
                return (await client.get(url, headers={"Authorization": "Bearer x"})).status_code

            ways: dict[str, Callable[[str], Awaitable[int]]] = {DIRECT: direct, KEPT: kept, OURS: ours}
            for size, count in SIZES.items():
                url = f"{origin}/{count}"
                found[size] = {name: [] for name in ways}
                for run in range(-5, runs):
                    for name, way in ways.items():
                        begun = time.perf_counter()
                        status = await way(url)
                        if status != 200:  # noqa: PLR2004 - HTTP's OK
                            raise RuntimeError(f"{name}: HTTP {status}")
                        if run >= 0:
                            found[size][name].append(time.perf_counter() - begun)
    return found


def figures(seconds: list[float]) -> Figures:
    """Median, least and 90th percentile."""
    milliseconds = [each * 1000 for each in seconds]
    return Figures(median(milliseconds), min(milliseconds), quantiles(milliseconds, n=10)[-1])


def main() -> None:
    """Measure, print a table, and write the figures down if asked."""
    parser = argparse.ArgumentParser(description="call_api against a direct request, as a ratio.")
    parser.add_argument("--runs", type=int, default=200, help=f"calls of each kind, at least {LEAST_RUNS} (default: 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    if options.runs < LEAST_RUNS:
        parser.error(f"--runs is at least {LEAST_RUNS}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    upstream = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    upstream.start()
    try:
        _wait_for(port)
        measured = anyio.run(measure, port, options.runs)
    finally:
        upstream.kill()
    report: dict[str, object] = {"runs": options.runs}
    for size, times in measured.items():
        found = {name: figures(each) for name, each in times.items()}
        ratios = {name: found[OURS].median / found[name].median for name in (DIRECT, KEPT)}
        print(f"{f'an answer of {size}, ms':<34}{'median':>8}{'min':>8}{'p90':>8}")
        for name, each in found.items():
            print(f"{name:<34}{each.median:>8.2f}{each.min:>8.2f}{each.p90:>8.2f}")
        print("ratio of the medians: " + ", ".join(f"{ratio:.2f} to {name}" for name, ratio in ratios.items()) + "\n")
        report[size] = {"ratios": ratios} | {name: asdict(each) for name, each in found.items()}
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the upstream does not start")


if __name__ == "__main__":
    main()
