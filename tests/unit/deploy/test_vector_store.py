"""The built-in vector store keeps what it acknowledged when a disk or a caller fails it; see tests/integration too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc
import pytest
from milvus_lite.engine import flush
from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema
from milvus_lite.storage.manifest import Manifest
from milvus_lite.storage.wal import WAL

from deploy.images.vector_store import Ordered, Store

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
