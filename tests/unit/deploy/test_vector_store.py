"""The built-in vector store keeps what it acknowledged when a disk or a caller fails it; see tests/integration too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc
import numpy as np
import pytest
from milvus_lite.engine import flush
from milvus_lite.index.factory import build_index_from_spec
from milvus_lite.index.spec import IndexSpec
from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema
from milvus_lite.storage.manifest import Manifest
from milvus_lite.storage.wal import WAL

from deploy.images.vector_store import EXACT_ROWS, Ordered, Store

FIELDS = [
    FieldSchema(name="id", dtype=DataType.VARCHAR, is_primary=True, max_length=64),
    FieldSchema(name="vector", dtype=DataType.FLOAT_VECTOR, dim=4),
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    logs, original = [], WAL.__init__

    def init(self: WAL, *args: Any, **more: Any) -> None:
        logs.append(self)
        original(self, *args, **more)

    monkeypatch.setattr(WAL, "__init__", init)
    found = Store(str(tmp_path))
    found.create_collection("docs", CollectionSchema(fields=FIELDS))
    yield found
    for log in logs:  # a kill closes no file, but the tests' own process lives on
        for file in (log._data_sink, log._delta_sink):
            if file is not None:
                file.close()


def write(store: Store, prefix: str, rows: int) -> None:
    store.get_collection("docs").upsert([{"id": f"{prefix}{i}", "vector": [1.0, 0, 0, i]} for i in range(rows)])


def ids(store: Store) -> set[str]:
    return {row["id"] for row in store.get_collection("docs").query("", output_fields=["id"])}


def test_a_delete_tells_how_many_rows_there_were(store: Store) -> None:
    write(store, "a", 3)
    assert store.get_collection("docs").delete(["a0", "a1", "b0"]) == 2
    store.get_collection("docs").flush()
    assert store.get_collection("docs").delete(["a0", "a1", "a2"]) == 1
    assert store.get_collection("docs").delete([]) == 0
    assert ids(store) == set()


def again(store: Store, folder: Path) -> Store:
    """As after a process that was killed: nothing was closed."""
    store._release_lock()
    found = Store(str(folder))
    found.open_all()
    return found


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("where", "name"), [(flush, "write_data_file"), (Manifest, "save"), (WAL, "close_and_delete")])
def test_a_flush_that_fails_loses_no_row(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    write(store, "a", 50)
    with monkeypatch.context() as broken:
        broken.setattr(where, name, full)
        with pytest.raises(OSError, match="space"):
            store.get_collection("docs").flush()
    assert len(ids(store)) == 50
    write(store, "b", 10)
    store.get_collection("docs").flush()
    assert len(ids(store)) == store.get_collection("docs").num_entities == 60
    assert len(ids(again(store, tmp_path))) == 60


def test_rows_after_a_write_that_was_torn_survive_a_restart(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(self: WAL, batch: Any) -> None:
        self._data_sink.write(b"\x10\xff\xff\xff half of a batch")
        self._data_sink.flush()
        full()

    write(store, "a", 5)
    with monkeypatch.context() as broken:
        broken.setattr(WAL, "write_insert", torn)
        with pytest.raises(OSError, match="space"):
            write(store, "lost", 5)
    write(store, "b", 5)
    assert ids(again(store, tmp_path)) == {f"{prefix}{i}" for prefix in "ab" for i in range(5)}


def test_what_was_acknowledged_is_found_while_it_moves_into_a_file(store: Store) -> None:
    acknowledged, wrong, done = 0, [], threading.Event()

    def read() -> None:
        while not done.is_set():
            least = acknowledged
            found = len(ids(store))
            if not least <= found <= acknowledged + 20:
                wrong.append((least, found))
            time.sleep(0.001)  # or the writer waits for its turn most of the time

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for turn in range(25):
        write(store, f"{turn}-", 20)
        acknowledged += 20
        store.get_collection("docs").flush()
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong


class Context:
    """A call with some time left, whose caller may have gone."""

    def __init__(self, seconds: float, active: bool = True) -> None:
        self.until, self.active = time.monotonic() + seconds, active

    def time_remaining(self) -> float:
        return self.until - time.monotonic()

    def is_active(self) -> bool:
        return self.active

    def abort(self, code: grpc.StatusCode, text: str) -> NoReturn:
        raise RuntimeError(code.name)


def method(name: str, work: Callable[[], None]) -> Callable[[Context, str], None]:
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: work())
    details = SimpleNamespace(method=f"/milvus.proto.milvus.MilvusService/{name}")
    made = ORDERED.intercept_service(lambda _: handler, details).unary_unary
    return lambda context, collection: made(SimpleNamespace(collection_name=collection), context)


ORDERED = Ordered()


def test_a_change_waits_for_its_turn_no_longer_than_its_caller() -> None:
    done, begun, go = [], threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(60)

    first = threading.Thread(target=lambda: method("Upsert", slow)(Context(60), "docs"))
    first.start()
    assert begun.wait(60)
    with pytest.raises(RuntimeError, match="DEADLINE_EXCEEDED"):
        method("Upsert", lambda: done.append("same"))(Context(0.2), "docs")
    method("Upsert", lambda: done.append("other"))(Context(60), "others")
    method("Search", lambda: done.append("read"))(Context(60), "docs")
    go.set()
    first.join()
    with pytest.raises(RuntimeError, match="CANCELLED"):
        method("Upsert", lambda: done.append("left"))(Context(60, active=False), "docs")
    method("Upsert", lambda: done.append("next"))(Context(60), "docs")
    assert done == ["other", "read", "next"]


def index(vectors: Any, metric: str) -> Any:
    return build_index_from_spec(IndexSpec("vector", "HNSW", metric, {"M": 16, "efConstruction": 128}), vectors)


@pytest.mark.parametrize("metric", ["COSINE", "L2", "IP"])
@pytest.mark.parametrize("allowed", [1, 7, 40, EXACT_ROWS // 10, None])
def test_a_filter_loses_no_hit(metric: str, allowed: int | None) -> None:
    random = np.random.default_rng(11)
    vectors, queries = (random.normal(size=(rows, 16)).astype("f4") for rows in (EXACT_ROWS // 5, 9))
    mask = None
    if allowed:
        mask = np.zeros(len(vectors), bool)
        mask[random.permutation(len(vectors))[:allowed]] = True
    rows, distances = index(vectors, metric).search(queries, 10, mask)
    for query, found, at in zip(queries, rows, distances, strict=True):
        match metric:
            case "L2":
                all_distances = np.linalg.norm(vectors - query, axis=1)
            case "IP":
                all_distances = -vectors @ query
            case _:
                all_distances = 1 - vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
        if mask is not None:
            all_distances[~mask] = np.inf
        wanted = np.sort(all_distances)[:10]
        assert at == pytest.approx(wanted, abs=1e-5)
        assert list(found >= 0) == list(np.isfinite(wanted))


def test_rows_that_are_alike_are_all_found() -> None:
    rows, _ = index(np.ones((600, 2), "f4"), "COSINE").search(np.ones((1, 2), "f4"), 600)
    assert sorted(rows[0]) == list(range(600))


def test_a_filter_that_leaves_many_rows_finds_most_of_the_nearest() -> None:
    random = np.random.default_rng(12)
    vectors, queries = (random.normal(size=(rows, 8)).astype("f4") for rows in (EXACT_ROWS * 2, 20))
    mask = np.arange(len(vectors)) % 100 < 51
    rows, distances = index(vectors, "L2").search(queries, 10, mask)
    assert mask[rows].all()
    assert (np.diff(distances) >= 0).all()
    nearest = [set(np.flatnonzero(mask)[np.argsort(np.linalg.norm(vectors[mask] - q, axis=1))[:10]]) for q in queries]
    assert sum(len(set(r) & n) for r, n in zip(rows, nearest, strict=True)) >= 180


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("", lambda n: True),
        ('metadata["n"] >= 0', lambda n: True),
        ('not (metadata["n"] == 700) and metadata["n"] != 701', lambda n: n not in (700, 701)),
        ('metadata["of"] == "tens"', lambda n: n % 10 == 0),  # a key that others have not
        ('metadata["n"] == 5 or metadata["n"] == 1501 or text == "last"', lambda n: n in (5, 1501, 2999)),
        ('metadata["n"] < 3 or text == "last"', lambda n: n < 3 or n == 2999),
        ('id != "02000" and metadata["n"] > 1990 and metadata["n"] < 2010', lambda n: 1990 < n < 2010 and n != 2000),
        ('metadata["n"] < 0', lambda n: False),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 500, 5000])
def test_pages_of_a_filter_are_whole_and_in_order(
    filled: Any, expression: str, kept: Callable[[int], bool], size: int
) -> None:
    wanted = [f"{n:05}" for n in range(3000) if kept(n) and n not in GONE]
    found, after = list[str](), "00100"
    while True:
        place = f'id > "{after}"' + (f" and ({expression})" if expression else "")
        page = filled.query(place, output_fields=["id", "text"], limit=size, order_by_pk=True)
        assert all(row["text"] == ("last" if row["id"] == "02999" else f"text {row['id']}") for row in page)
        found += [row["id"] for row in page]
        if len(page) < size:
            break
        after = found[-1]
        if size == 1 and len(found) > 50:
            wanted = [one for one in wanted if one <= after]
            break
    assert found == [one for one in wanted if one > "00100"]


GONE = {150, 151, *range(1500, 1505)} - {1501}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """3,000 rows, in files and in memory; some were replaced, some deleted, one deleted and put back."""
    store = Store(str(tmp_path_factory.mktemp("filled")))
    fields = [
        *FIELDS,
        FieldSchema(name="text", dtype=DataType.VARCHAR, max_length=64),
        FieldSchema(name="metadata", dtype=DataType.JSON),
    ]
    docs = store.create_collection("docs", CollectionSchema(fields=fields))
    docs.load()

    def row(n: int, text: str = "") -> dict[str, Any]:
        metadata = {"n": n} | ({"of": "tens"} if n % 10 == 0 else {})
        return {"id": f"{n:05}", "vector": [1.0, 0, 0, 0], "text": text or f"text {n:05}", "metadata": metadata}

    docs.upsert([row(n, "old") for n in range(2999, -1, -1)])
    docs.flush()
    docs.upsert([row(n) for n in range(1000)])
    docs.delete([f"{n:05}" for n in (*GONE, 1501)])
    docs.flush()
    docs.upsert([*(row(n) for n in range(1000, 2999) if n not in GONE), row(2999, "last")])
    yield docs
    store.close()
