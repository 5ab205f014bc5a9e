"""The gateway's hop against nginx grpc_pass and a bare grpc.aio proxy, before the same service.

The proxies run on the first core alone; load and service share the other cores. A proxy's calls a second of a
core are its calls over the processor seconds that it used meanwhile, whoever was the bottleneck.
"""

from __future__ import annotations

import base64
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genmesh.v1 import embedding_pb2, tokenization_pb2

from deploy.local.ports import free_port
from deploy.local.processes import service_environment
from loadtest.peers import setup
from loadtest.peers.cluster import TENANT, Bench
from loadtest.peers.processes import HOST, Processes, Server, Worker, family, processor_seconds
from loadtest.peers.rounds import Contender, Metrics, alternate
from services.runtime import identity

COUNT = "/genmesh.v1.TokenizationService/Count"
EMBED = "/genmesh.v1.EmbeddingService/Embed"
CLIENTS = 32
NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream service {{ server {target}; keepalive 64; }}
  server {{
    listen {host}:{port} http2; http2_max_requests 100000000; keepalive_requests 100000000;
    location / {{ grpc_pass grpc://service; }}
  }}
}}
"""


@contextlib.contextmanager
def pinned(pid: int, cores: set[int]) -> Iterator[None]:
    """A running process, all its threads, on these cores only; on all again afterwards."""

    def move(to: set[int]) -> None:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), to)

    move(cores)
    try:
        yield
    finally:
        move(set(range(os.cpu_count() or 1)))


def gateway(bench: Bench, core: int, log: str) -> Server:
    """A gateway of its own before the cluster's services."""
    port = free_port()
    layout, ports = bench.cluster.layout, bench.cluster.ports
    environment = service_environment("gateway", layout, ports, bench.secret.decode())
    environment |= {name: str(free_port()) for name in environment if name.endswith("_PORT")}
    environment["GENMESH_PORT"] = str(port)
    return Server([sys.executable, "-m", "services.gateway"], bench.logs / log, port, core, environment)


def nginx(target: str, folder: Path, log: Path) -> Server:
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, host=HOST, port=port, target=target))
    return Server(["nginx", "-c", str(config), "-p", str(folder), "-e", "stderr"], log, port, 0)


async def run(bench: Bench) -> dict[str, Any]:
    seconds = 1.0 if bench.quick else 6.0
    service = f"{HOST}:{bench.port('tokenization')}"
    bare_port = free_port()
    others = set(range(1, os.cpu_count() or 1)) or {0}
    with tempfile.TemporaryDirectory() as folder:
        async with Processes() as processes:
            ours = await processes.start(gateway(bench, 0, "gateway.log"))
            second = await processes.start(gateway(bench, max(others), "gateway-second.log"))
            proxies: dict[str, Server] = {
                "genmesh": ours,
                "nginx": await processes.start(nginx(service, Path(folder), bench.logs / "nginx.log")),
                "grpc.aio": await processes.start(
                    Server([sys.executable, str(setup.WORKERS / "grpc_proxy.py"), f"{HOST}:{bare_port}", service],
                           bench.logs / "grpc-proxy.log", bare_port, 0)
                ),
            }  # fmt: skip
            load = await processes.start(
                Worker([sys.executable, str(setup.WORKERS / "grpc_load.py")], bench.logs / "load.log", min(others))
            )
            signed = [[identity.IDENTITY, identity.sign(bench.secret, TENANT)], [identity.REQUEST_ID, "bench"]]
            keyed = [["authorization", f"Bearer {bench.key}"]]
            count = base64.b64encode(
                tokenization_pb2.CountRequest(texts=["a few words to count"]).SerializeToString()
            ).decode()
            embed = base64.b64encode(embedding_pb2.EmbedRequest(inputs=["a cached text"]).SerializeToString()).decode()

            async def measured(
                target: str, clients: int, *, own: bool, path: str = COUNT, request: str = count
            ) -> dict[str, float]:
                """``own``: at a gateway, with an API key; else with a signed tenant."""
                found: dict[str, float] = await load.call(
                    "measure", target=f"ipv4:{target}", path=path, request=request, metadata=keyed if own else signed,
                    clients=clients, seconds=seconds,
                )  # fmt: skip
                return found

            def through(server: Server) -> Contender:
                async def once(turn: int) -> Metrics:
                    target = f"{HOST}:{server.port}"
                    pids = family(server.pid)
                    used = processor_seconds(pids)
                    many = await measured(target, CLIENTS, own=server is ours)
                    used = processor_seconds(pids) - used
                    one = await measured(target, 1, own=server is ours)
                    direct = await measured(service, 1, own=False)
                    return {
                        "calls_per_second": many["calls"] / many["seconds"], "calls_per_core_second": many["calls"] / used,
                        "core_busy": used / many["seconds"], "p50_ms": one["p50_ms"], "direct_p50_ms": direct["p50_ms"],
                        "added_ms": one["p50_ms"] - direct["p50_ms"],
                    }  # fmt: skip

                return once

            async def two_cores(turn: int) -> Metrics:
                alone = await measured(f"{HOST}:{ours.port}", CLIENTS, own=True)
                pids = [*family(ours.pid), *family(second.pid)]
                used = processor_seconds(pids)
                both = await measured(f"{HOST}:{ours.port},{HOST}:{second.port}", CLIENTS, own=True)
                used = processor_seconds(pids) - used
                one, two = alone["calls"] / alone["seconds"], both["calls"] / both["seconds"]
                return {"one": one, "two": two, "gain": two / one, "cores_used": used / both["seconds"],
                        "calls_per_core_second": both["calls"] / used}  # fmt: skip

            async def cached(turn: int) -> Metrics:
                found = await measured(f"{HOST}:{ours.port}", 1, own=True, path=EMBED, request=embed)
                return {"p50_ms": found["p50_ms"], "p95_ms": found["p95_ms"]}

            tokenization = bench.cluster.states()["tokenization"]["pid"]
            with pinned(tokenization, others):
                samples = await alternate({name: through(server) for name, server in proxies.items()}, bench.rounds)
                cores = await alternate({"genmesh": two_cores}, bench.rounds)
            embedding = await alternate({"genmesh": cached}, bench.rounds)
    return {"samples": samples, "cores": cores["genmesh"], "cached": embedding["genmesh"], "clients": CLIENTS,
            "machine_cores": os.cpu_count()}  # fmt: skip
