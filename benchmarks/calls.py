"""What does it cost that a call goes through us? `call_api` of an API on this machine, ours against a direct request.

The upstream is a bare HTTP server of one process; the direct requests are made with httpx2, over a connection of their own
each, as ours are, and over one that is kept. A call of ours finds its token in the vault, writes two rows to the trail with
two durable commits, and searches the answer for the token. Runs alternate, so that whatever else the machine does hits all
alike; the ratio of the medians is what counts, and the milliseconds are this machine's. Over a real network every request
takes the same round trips more on each side, so the ratio is the worst there is.

    python benchmarks/calls.py [--calls 200] [--quick]
"""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import httpx2
from kit.figures import percentile
from kit.scenario import Scenario, parser, scenario
from kit.servers import free_port
from kit.show import Chart, Table
from kit.vaults import BenchVault

from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.domain.api_call import ApiAnswer, ApiRequest
from mcp_identity.domain.credentials import Secret

CALLS = 200
SIZES = {"1 KiB": 1024, "1 MiB": 1 << 20}
TOKENS = b'{"access_token":"made-up-access-token-of-usual-length-0123456789","token_type":"Bearer","expires_in":3600}'
DIRECT, KEPT, OURS = "direct, a connection each", "direct, a kept connection", "call_api"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one way to call; milliseconds."""

    median: float
    p90: float
    p99: float


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


async def measure(vault: BenchVault, port: int, calls: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every call, by size and way, in alternation, after a few that fill the caches."""
    origin = f"http://127.0.0.1:{port}"
    found: dict[str, dict[str, list[float]]] = {}
    async with app.open(vault.settings()) as graph, httpx2.AsyncClient(trust_env=False) as client:
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
            for run in range(-5, calls):
                for name, way in ways.items():
                    begun = time.perf_counter()
                    status = await way(url)
                    if status != 200:  # noqa: PLR2004 - HTTP's OK
                        raise RuntimeError(f"{name}: HTTP {status}")
                    if run >= 0:
                        found[size][name].append(time.perf_counter() - begun)
    return found


def figures(seconds: list[float]) -> Figures:
    """Median, 90th and 99th percentile."""
    milliseconds = [each * 1000 for each in seconds]
    return Figures(percentile(milliseconds, 50), percentile(milliseconds, 90), percentile(milliseconds, 99))


def conclude(measured: Scenario, times: dict[str, dict[str, list[float]]]) -> None:
    """Make the table and the chart."""
    table = Table("an answer of an API on this machine", ["", "size", "p50 ms", "p90 ms", "p99 ms", "ours, as a multiple"], [])
    chart: dict[str, list[float]] = {}
    for size, by_way in times.items():
        found = {name: figures(taken) for name, taken in by_way.items()}
        for name, each in found.items():
            chart.setdefault(name, []).append(each.median)
            ratio = found[OURS].median / each.median
            cells = [f"{value:.2f}" for value in (each.median, each.p90, each.p99)]
            table.rows.append([name, size, *cells, "" if name == OURS else f"{ratio:.2f}"])
            measured.data.append({"way": name, "size": size, "ratio": ratio, **asdict(each)})
    measured.tables.append(table)
    title = "A call through us, beside a request without us"
    measured.charts.append(Chart("calls", title, "median milliseconds", [f"an answer of {size}" for size in SIZES], chart))


def main() -> None:
    """Measure, print, keep."""
    options = parser("call_api against a direct request, as a ratio.")
    options.add_argument("--calls", type=int, default=CALLS, help=f"of each kind (default: {CALLS})")
    given = options.parse_args()
    if given.quick:
        given.calls = 10
    port = free_port()
    upstream = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    upstream.start()
    try:
        _wait_for(port)
        with scenario(
            given,
            "calls",
            "A call of an API through us",
            __doc__,
            postgresql=False,
            calls_of_each_kind=given.calls,
        ) as measured:
            vault = BenchVault(measured.folder / "home")
            conclude(measured, anyio.run(measure, vault, port, given.calls))
    finally:
        upstream.kill()


def _wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the upstream does not start")


if __name__ == "__main__":
    main()
