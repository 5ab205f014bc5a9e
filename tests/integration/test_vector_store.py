"""The built-in vector store loses no row: many clients change one collection at once, and find all after a restart."""

from __future__ import annotations

import ctypes
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import grpc
import pytest
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from deploy.local.ports import Ports
from tests.figures import Figure
from tests.metrics import scrape
from tests.waiting import LIMIT_SECONDS, until

SERVER = Path(__file__).parents[2] / "deploy" / "images" / "vector_store.py"
CLIENTS, BATCHES, ROWS, DIMENSION = 8, 12, 50, 64


class Running:
    """The server on one folder, which can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.collection = folder, ""
        self.start()

    def start(self) -> None:
        ports = Ports.free()
        self.metrics = ports["milvus_metrics"]
        where = ["--port", str(ports["milvus"]), "--metrics-port", str(self.metrics)]
        self.process = subprocess.Popen([sys.executable, SERVER, "--data-dir", self.folder, *where])
        self.address = f"http://127.0.0.1:{ports['milvus']}"
        until(self.answers)

    def answers(self) -> bool:
        assert self.process.poll() is None
        try:
            self.client = MilvusClient(self.address, timeout=2)
        except MilvusException:
            return False
        return True

    def stop(self, number: signal.Signals) -> int:
        self.client.close()
        self.process.send_signal(number)
        return self.process.wait(LIMIT_SECONDS)

    def count(self) -> int:
        return self.client.query(self.collection, filter="", output_fields=["count(*)"])[0]["count(*)"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    found = Running(tmp_path_factory.mktemp("store"))
    yield found
    if found.process.poll() is None:
        found.stop(signal.SIGKILL)


@pytest.fixture
def running(server: Running) -> Iterator[Running]:
    """The server with a collection of the test's own, the only one."""
    client, server.collection = server.client, f"docs_{secrets.token_hex(4)}"
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 128})
    client.create_collection(server.collection, schema=schema, index_params=index)
    yield server
    if server.process.poll() is None:
        server.client.drop_collection(server.collection)
    else:
        server.start()


def vector() -> list[float]:
    return [random.gauss(0, 1) for _ in range(DIMENSION)]


def upserts(running: Running) -> float:
    seen = scrape(running.metrics)
    return seen.get(("genmesh_milvus_lite_call_duration_seconds_count", 'method="Upsert"'), 0.0)


def upsert_at_once(running: Running) -> None:
    def write(client: int) -> None:
        for batch in range(BATCHES):
            rows = [{"id": f"{client}-{batch}-{row}", "vector": vector()} for row in range(ROWS)]
            running.client.upsert(running.collection, rows, timeout=60)
            if batch % 4 == 3:
                running.client.flush(running.collection, timeout=60)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(write, range(CLIENTS)))


def test_pages_are_whole_and_in_order_whatever_changes_between_them(running: Running) -> None:
    def write(*ids: str) -> None:
        running.client.upsert(running.collection, [{"id": i, "vector": vector()} for i in ids])

    ids = [f"{number:05}" for number in range(3000)]
    shuffled = random.Random(1).sample(ids, len(ids))
    for start in range(0, len(ids), 500):
        write(*shuffled[start : start + 500])
    seen: list[str] = []
    gone, added = set(), []
    while True:
        after = seen[-1] if seen else ""
        page = running.client.query(
            running.collection, filter=f'id > "{after}"', output_fields=["id"], limit=400, iterator="True"
        )
        if not page:
            break
        seen += [row["id"] for row in page]
        number = int(seen[-1][:5])
        write(f"{number - 10:05}-behind", f"{number - 20:05}", *added[-1:])
        if number + 10 < len(ids):
            added.append(f"{number + 5:05}-ahead")
            gone.add(f"{number + 7:05}")
            write(added[-1])
            running.client.delete(running.collection, filter=f'id in ["{number + 7:05}"]')
        if len(seen) > 1000:
            running.client.flush(running.collection, timeout=60)
    assert seen == sorted({*ids, *added} - gone)

    def selected(expression: str) -> list[str]:
        rows = running.client.query(
            running.collection, filter=expression, output_fields=["id"], limit=10_000, iterator="True"
        )
        return [row["id"] for row in rows]

    there = selected('id > ""')
    assert set(there) >= set(seen)
    assert selected('id >= "002" and id < "0021"') == [one for one in there if "002" <= one < "0021"]
    for start in range(0, len(there), 500):  # most are gone, and the rest is found
        running.client.delete(running.collection, filter=f"id in {json.dumps(there[start : start + 490])}")
    assert selected('id > ""') == [one for at, one in enumerate(there) if at % 500 >= 490]


@pytest.mark.nightly
def test_a_page_costs_the_same_in_a_large_collection(running: Running, figure: Figure) -> None:
    def seconds() -> float:
        """Of a page of 100 in the middle, the least of ten."""
        found = []
        for _ in range(10):
            begun = time.monotonic()
            running.client.query(
                running.collection, filter='id > "0005"', output_fields=["id"], limit=100, iterator="True"
            )
            found.append(time.monotonic() - begun)
        return min(found)

    taken = {}
    for size in (1_000, 50_000):
        for start in range(running.count(), size, 1000):
            rows = [{"id": f"{number:06}", "vector": vector()} for number in range(start, start + 1000)]
            running.client.upsert(running.collection, rows, timeout=60)
        taken[size] = seconds()
        figure(f"vector store: a page of 100 of {size} rows", 1000 * taken[size], "ms")
    assert taken[50_000] < 5 * taken[1_000]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_many_clients_write_at_once_is_there_also_after_a_restart(
    running: Running, number: signal.Signals
) -> None:
    """And the first calls after it, all at once, find and keep everything."""
    before = upserts(running)
    upsert_at_once(running)
    assert running.count() == CLIENTS * BATCHES * ROWS
    until(lambda: upserts(running) == before + CLIENTS * BATCHES)
    seen = scrape(running.metrics)
    assert (seen["genmesh_milvus_lite_collections", ""], seen["genmesh_milvus_lite_waiting_changes", ""]) == (1, 0)
    assert running.stop(number) == (0 if number is signal.SIGTERM else -number)
    running.start()
    together = Barrier(CLIENTS)

    def first(client: int) -> None:
        together.wait()
        running.client.search(running.collection, [vector()], limit=1, timeout=60)  # fails if it is not loaded
        running.client.upsert(running.collection, [{"id": f"first-{client}", "vector": vector()}], timeout=60)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(first, range(CLIENTS)))
    assert running.count() == CLIENTS * BATCHES * ROWS + CLIENTS


def test_what_cannot_be_read_after_a_restart_is_made_anew_or_fails_alone(running: Running) -> None:
    """An index that was half written, and a collection whose schema is not one."""
    rows = [{"id": str(i), "vector": vector()} for i in range(200)]
    running.client.upsert(running.collection, rows)
    running.client.flush(running.collection)
    until(lambda: indexes(running))
    assert running.stop(signal.SIGTERM) == 0
    for path in indexes(running):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    bad = running.folder / "collections" / "bad"
    bad.mkdir()
    (bad / "schema.json").write_text("{")
    running.start()
    assert set(running.client.list_collections()) == {running.collection, "bad"}
    found = running.client.search(running.collection, [rows[7]["vector"]], limit=1, timeout=60)
    assert found[0][0]["id"] == "7"
    with pytest.raises(MilvusException):
        running.client.describe_collection("bad", timeout=5)
    shutil.rmtree(bad)


def indexes(running: Running) -> list[Path]:
    return list(running.folder.rglob("*.idx"))


def test_told_to_end_while_it_works_it_ends(running: Running) -> None:
    """Calls that run have 5 seconds; one that waits for its turn is not begun after that."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        calls = [pool.submit(upsert_some, running, client) for client in range(CLIENTS)]
        until(lambda: running.count() > 0)
        assert running.stop(signal.SIGTERM) == 0
        acknowledged = sum(call.result() for call in calls)
    running.start()
    assert acknowledged <= running.count() <= acknowledged + CLIENTS * ROWS


def test_a_signal_that_the_kernel_hands_to_another_thread_ends_it(running: Running) -> None:
    """It does so with one that is just starting a thread."""
    number = running.process.pid
    other = next(int(task.name) for task in Path(f"/proc/{number}/task").iterdir() if int(task.name) != number)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.tgkill(number, other, int(signal.SIGTERM)) == 0, os.strerror(ctypes.get_errno())
    assert running.process.wait(LIMIT_SECONDS) == 0


def upsert_some(running: Running, client: int) -> int:
    """Until the server is gone: how many rows were acknowledged."""
    for batch in range(1000):
        try:
            running.client.upsert(
                running.collection,
                [{"id": f"{client}-{batch}-{i}", "vector": vector()} for i in range(ROWS)],
                timeout=5,
            )
        except Exception:  # of whatever kind: it was not acknowledged
            return batch * ROWS
    raise AssertionError("the server never ended")


def test_a_connection_that_is_idle_for_long_stays(running: Running) -> None:
    """pymilvus pings each ten seconds, also when it has nothing to ask; here it is each tenth of a second."""
    options = [
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpc.insecure_channel(running.address.removeprefix("http://"), options=options) as channel:
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append, try_to_connect=True)
        until(lambda: grpc.ChannelConnectivity.READY in states)
        time.sleep(3)
        assert states[-1] is grpc.ChannelConnectivity.READY
        assert states.count(grpc.ChannelConnectivity.READY) == 1
