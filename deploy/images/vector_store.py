"""The built-in vector store, Milvus Lite behind Milvus' gRPC API: of the image, of `make up` and of the tests.

    python vector_store.py --data-dir FOLDER [--host HOST] [--port PORT] [--metrics-port PORT]

Milvus Lite's own command takes the changes of a collection as they come and trusts its disk. Each of these lost rows that
had been acknowledged, or hid them, and is what this file is for (tests/integration/test_vector_store.py):

- changes side by side: 8 clients that upserted 8,000 rows lost 150, and the log of writes could not be read back;
- two first calls after a start, which each opened the collection: one does not see what the other loads or writes;
- reads while rows move from memory into a file, which find the rows in neither;
- a flush or a write to the log that fails (a full disk): the next flush deletes the only copy;
- an index that was half written when the process was killed: the collection could not be loaded again;
- a search with a filter: of the ten nearest among 40 of 20,000 rows, two were found.

BM25 scores are Milvus': positive, and by the statistics of all rows of a collection. Milvus Lite's are negative, by those of
each file, and take a step of Python for each word of each row.

Filters compare as Milvus does: `true` does not equal 1.

SIGTERM lets running calls end, for up to 5 seconds. Nothing is written then: what was in memory only stands in the log of
writes, which the next start reads, and a backup may have been put in place of the folder meanwhile.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn
from weakref import WeakValueDictionary

import faiss
import grpc
import milvus_lite.analyzer.factory
import milvus_lite.db
import numpy as np
import pyarrow as pa
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.analyzer import Analyzer, create_analyzer
from milvus_lite.db import DEFAULT_DATABASE_NAME
from milvus_lite.engine import compaction, flush
from milvus_lite.engine.collection import Collection
from milvus_lite.engine.operation import InsertOp
from milvus_lite.engine.projection import build_projection_plan, project_record
from milvus_lite.index import faiss_hnsw
from milvus_lite.search.filter import ast, evaluate_mask, parse_expr
from milvus_lite.search.filter import eval as filters
from milvus_lite.search.filter.eval import python_backend
from milvus_lite.storage.memtable import MemTable
from milvus_lite.storage.wal import WAL
from prometheus_client import Gauge, Histogram, start_http_server
from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc

log = logging.getLogger("vector_store")
Bounds = dict[str, str]  # of ids, by comparator
THREADS = 64  # a search must find one while changes wait for each other
LARGEST_MESSAGE_BYTES = 256 << 20  # as Milvus'
GRACE_SECONDS = 5
EXACT_ROWS = 10_000  # of up to so many rows a search looks at each, rather than walk through the graph
MOST_LOOKED_AT = 10_000  # rows of a page with a filter, one by one
K1, B = 1.2, 0.75  # of BM25, Milvus' defaults; Milvus Lite does not read what pymilvus says of them
# How the methods of Milvus' API begin that change nothing.
READS = ("Check", "Connect", "Describe", "Get", "Has", "HybridSearch", "List", "Query", "Search", "Show")
LONGEST_WAIT_SECONDS = 60.0
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

duration = Histogram(
    "genmesh_milvus_lite_call_duration_seconds",
    "One call of Milvus' API, its wait for others' changes included.",
    ["method"],
    buckets=CALL_SECONDS,
)
waiting = Gauge("genmesh_milvus_lite_waiting_changes", "Changes that wait for one of the same collection.")
collections = Gauge("genmesh_milvus_lite_collections", "Collections that are open.")


class Gate:
    """Any number of readers, or one who changes what they see; who waits to change goes before later readers."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._left = threading.Condition()
        self._reading = 0
        self._mine = threading.local()

    @contextmanager
    def reading(self) -> Iterator[None]:
        if getattr(self._mine, "reads", False):  # a read within a read
            yield
            return
        with self._turn, self._left:
            self._reading += 1
        self._mine.reads = True
        try:
            yield
        finally:
            self._mine.reads = False
            with self._left:
                self._reading -= 1
                self._left.notify()

    @contextmanager
    def changing(self) -> Iterator[None]:
        with self._turn:
            with self._left:
                self._left.wait_for(lambda: not self._reading)
            yield


class Words:
    """The rows of one file, or of memory, by the words that they have."""

    def __init__(self, rows: list[bytes | None]) -> None:
        """Each row's pairs of a word and how often it has it, as Milvus Lite stores them."""
        pairs = np.frombuffer(b"".join(row or b"" for row in rows), [("word", "<u4"), ("count", "<f4")])
        sizes = np.array([len(row or b"") // pairs.itemsize for row in rows], np.int64)
        place = np.repeat(np.arange(len(rows), dtype=np.int32), sizes)
        order = np.argsort(pairs["word"], kind="stable")
        self._words, starts = np.unique(pairs["word"][order], return_index=True)
        self._starts = np.append(starts, len(order))
        self._places, self._counts = place[order], pairs["count"][order]
        self.lengths = np.bincount(place, pairs["count"], len(rows)).astype(np.float32)

    def places(self, word: int) -> tuple[Any, Any]:
        """The rows that have a word, and how often."""
        i = int(np.searchsorted(self._words, word))
        if i == len(self._words) or self._words[i] != word:
            return self._places[:0], self._counts[:0]
        part = slice(self._starts[i], self._starts[i + 1])
        return self._places[part], self._counts[part]


@dataclass(frozen=True)
class Source:
    """A file, or what is in memory."""

    ids: list[str]
    live: Any  # bool (rows,): not deleted, and the newest of its id
    table: pa.Table
    words: Words


class Spaces(Analyzer):  # type: ignore[misc]
    """Milvus' "whitespace", which Milvus Lite has not: words are made before (services/vector_search/analysis.py)."""

    def tokenize(self, text: str) -> list[str]:
        return text.split(" ") if text else []


def analyzer_of(params: dict[str, Any] | None = None) -> Any:
    return Spaces() if (params or {}).get("tokenizer") == "whitespace" else create_analyzer(params)


milvus_lite.analyzer.factory.create_analyzer = analyzer_of


class Kept(Collection):  # type: ignore[misc]
    """A collection whose acknowledged rows are found at any moment, and after any failure of a write."""

    _wal: Any
    _memtable: Any

    def __init__(self, *args: Any, **more: Any) -> None:
        self._gate = Gate()
        self._moving = False
        self._sorted: list[str] | None = None  # the ids there are, for pages
        self._added: list[str] = []  # since
        self._gone = 0  # rows deleted since, at most
        self._sorting = threading.Lock()
        self._changes = 0  # that are done
        self._known: tuple[Any, list[Source]] | None = None  # rows that are there, and the state of which that holds
        self.failed: Callable[[], None] = lambda: None
        super().__init__(*args, **more)
        if 0 <= self._memtable.max_seq <= self._manifest.current_seq:
            # All that the log held is in files: it could not be deleted after a flush, or not in time.
            self._memtable = MemTable(self._schema)
            flush._cleanup_old_wals(self._wal.wal_dir, self._wal.number - 1)

    def search(self, *args: Any, **more: Any) -> Any:
        with self._gate.reading():
            return super().search(*args, **more)

    def _search_sparse(
        self, query_vectors: list[str], vector_field: str, top_k: int, metric_type: str, partition_names: Any,
        expr: str | None, output_fields: list[str] | None, timezone: str | None = None,
    ) -> list[list[dict[str, Any]]]:  # fmt: skip
        """For each text its hits by BM25, greatest score first; equal ones by id."""
        analyze = self._bm25_analyzers[vector_field].analyze
        compiled = self._compile_filter(expr, timezone=timezone) if expr else None
        sources = self._sources(vector_field)
        rows = sum(int(one.live.sum()) for one in sources)
        mean = sum(one.words.lengths[one.live].sum() for one in sources) / max(rows, 1)
        wanted = [
            one.live & np.asarray(evaluate_mask(compiled, one.table), bool) if compiled and len(one.table) else one.live
            for one in sources
        ]
        found = []
        for text in query_vectors:
            scores = [np.zeros(len(one.live), np.float32) for one in sources]
            for term in set(analyze(text)):
                places = [one.words.places(term) for one in sources]
                those = sum(int(one.live[at].sum()) for one, (at, _) in zip(sources, places, strict=True))
                idf = np.float32(np.log1p((rows - those + 0.5) / (those + 0.5)))
                for one, score, (at, counts) in zip(sources, scores, places, strict=True):
                    score[at] += idf * counts * (K1 + 1) / (counts + K1 * (1 - B + B * one.words.lengths[at] / mean))
            best: list[tuple[float, str, int, int]] = []
            for number, (one, score, mask) in enumerate(zip(sources, scores, wanted, strict=True)):
                at = np.flatnonzero((score > 0) & mask)
                if len(at) > top_k:  # all that are not less than the last of them
                    at = at[score[at] >= np.partition(score[at], -top_k)[-top_k]]
                best += [(-float(score[i]), one.ids[i], number, int(i)) for i in at]
            found.append(
                [
                    {"id": known, "distance": -score, "entity": self._fields(sources[number].table, i, output_fields)}
                    for score, known, number, i in sorted(best)[:top_k]
                ]
            )
        return found

    def _fields(self, table: pa.Table, row: int, wanted: list[str] | None) -> dict[str, Any]:
        plan = build_projection_plan(wanted, self._schema, api_kind="search")
        names = [name for name in table.column_names if not name.startswith("_") and (not wanted or name in wanted)]
        record = {name: table.column(name)[row].as_py() for name in names}
        return project_record(record, self._schema, plan)  # type: ignore[no-any-return]

    def _sources(self, field: str) -> list[Source]:
        """Files, and what is in memory; which of their rows are there is looked at once for each state of the collection."""
        changes = self._changes  # before the rows are read
        segments, deleted = self._read_snapshot()
        state = changes, tuple(segment.file_path for segment in segments)
        with self._sorting:
            if self._known is not None and self._known[0] == state:
                return self._known[1]
        ids, seqs, _, _, memory = self._memtable.to_search_snapshot(vector_field=None, include_table=True)
        newest: dict[str, int] = {}
        parts = [(segment.pks, segment.seqs, segment.table) for segment in segments] + [(ids, seqs, memory)]
        for known, numbers, _ in parts:
            for one, number in zip(known, numbers.tolist(), strict=True):
                newest[one] = max(number, newest.get(one, -1))
        gone = self._memtable.delete_index_snapshot()
        found = []
        for i, (known, numbers, table) in enumerate(parts):
            live = np.fromiter(
                (
                    newest[one] == number and not deleted.is_deleted(one, number) and gone.get(one, (-1,))[0] <= number
                    for one, number in zip(known, numbers.tolist(), strict=True)
                ),
                bool, len(known),
            )  # fmt: skip
            kept = segments[i].sparse_indexes if i < len(segments) else {}
            if field not in kept:
                kept[field] = Words(table.column(field).to_pylist())
            found.append(Source(list(known), live, table, kept[field]))
        with self._sorting:
            self._known = state, found
        return found

    def query(self, expr: str | None = None, output_fields: Any = None, **more: Any) -> Any:
        with self._gate.reading():
            limit = more.get("limit")
            if (ids := self._named(expr or "")) is not None and "count(*)" not in (output_fields or ()):
                found = super().get(ids, output_fields=output_fields)
                return found[more.get("offset") or 0 :][:limit]
            if limit is None or not more.get("order_by_pk") or more.get("offset") or more.get("partition_names"):
                return super().query(expr, output_fields=output_fields, **more)
            return self._page(expr or "", limit, output_fields)

    def _named(self, expr: str) -> list[str] | None:
        """The ids of an expression that names ids and says nothing else; Milvus Lite looks at all rows for it."""
        match parse_expr(expr) if expr else None:
            case ast.InOp(field=ast.FieldRef(name=self._pk_name), values=ast.ListLit(elements=found), negate=False):
                return list(dict.fromkeys(one.value for one in found))
        return None

    def _bounds(self, tree: Any) -> Bounds | None:
        """The ids between which an expression selects all rows; None if it says anything else."""
        found: Bounds = {}
        for part in tree.operands if isinstance(tree, ast.And) else [tree]:
            match part:
                case ast.CmpOp(
                    op=">" | ">=" | "<" as comparator,
                    left=ast.FieldRef(name=self._pk_name),
                    right=ast.StringLit(value=str(bound)),
                ) if comparator not in found:
                    found[comparator] = bound
                case _:
                    return None
        return found

    def _ranges(self, expr: str) -> tuple[list[Bounds], bool]:
        """Between which ids an expression selects rows, in one range or more, and whether it says more than that."""
        tree = parse_expr(expr) if expr else None
        bounds, ranges, filtered = Bounds(), list[Bounds](), False
        for part in tree.operands if isinstance(tree, ast.And) else [tree] if tree else []:
            each = [self._bounds(one) for one in (part.operands if isinstance(part, ast.Or) else [part])]
            known = [one for one in each if one is not None]
            if len(known) == len(each) > 1 and not ranges:
                ranges = known
            elif len(known) == len(each) == 1 and not known[0].keys() & bounds.keys():
                bounds |= known[0]
            else:
                filtered = True
        if any(one.keys() & bounds.keys() for one in ranges):
            return [bounds], True
        return [one | bounds for one in ranges or [Bounds()]], filtered

    def _places(self, ids: list[str], ranges: list[Bounds]) -> list[tuple[int, int]]:
        """Where those ids begin and end, ascending and without overlaps."""
        found = list[tuple[int, int]]()
        for start, end in sorted(
            (
                max(bisect_right(ids, one.get(">", "")), bisect_left(ids, one.get(">=", ""))),
                bisect_left(ids, one["<"]) if "<" in one else len(ids),
            )
            for one in ranges
        ):
            first = max(start, found[-1][1]) if found else start
            if first < end:
                found.append((first, end))
        return found

    def _page(self, expr: str, limit: int, fields: Any) -> list[Any]:
        """The next rows by id. Milvus Lite reads and sorts all ids for each page, and reads all rows for a filter."""
        ranges, filtered = self._ranges(expr)
        ids, rows, size, looked = self._all_ids(), list[Any](), limit, 0
        for at, end in self._places(ids, ranges):
            while len(rows) < limit and at < end:
                block = ids[at : min(end, at + (size if filtered else limit - len(rows)))]
                at += len(block)
                if filtered:
                    looked += len(block)
                    if looked > MOST_LOOKED_AT:  # all at once are faster
                        return super().query(expr, output_fields=fields, limit=limit, order_by_pk=True)  # type: ignore[no-any-return]
                    size *= 2
                    block = self._selected(block, expr)[: limit - len(rows)]
                if block:
                    rows += super().get(block, output_fields=fields)  # passes over those that are gone
        return rows

    def _selected(self, ids: list[str], expr: str) -> list[str]:
        """Those of the ids whose rows are there, and which the expression selects."""
        compiled = self._compile_filter(expr)
        rows = super().get(ids, output_fields=list(compiled.fields))
        if not rows:
            return []
        mask = evaluate_mask(compiled, pa.Table.from_pylist(rows))
        return [row[self._pk_name] for row, kept in zip(rows, mask, strict=True) if kept]

    def _all_ids(self) -> list[str]:
        """In order; those of rows that are gone may be among them."""
        with self._sorting:
            if self._sorted is None:
                self._sorted = sorted(row[self._pk_name] for row in super().query(None, output_fields=[self._pk_name]))
            elif self._added:
                self._sorted = list(dict.fromkeys(sorted([*self._sorted, *self._added])))
            self._added = []
            return self._sorted

    def get(self, *args: Any, **more: Any) -> Any:
        with self._gate.reading():
            return super().get(*args, **more)

    def delete(self, pks: list[Any], partition_name: str | None = None) -> int:
        """How many there were; Milvus Lite says how many were asked for."""
        there = self.get(pks, output_fields=[self._pk_name]) if self._load_state == "loaded" else pks
        super().delete(pks, partition_name=partition_name)
        return len(there)

    @property
    def num_entities(self) -> int:
        with self._gate.reading():
            return int(super().num_entities)

    def _apply(self, op: Any) -> None:
        try:
            super()._apply(op)
        except BaseException:  # half of it may stand in the log, and what follows that is never read
            self.failed()
            raise
        with self._sorting:
            self._changes += 1
            if not isinstance(op, InsertOp):
                self._gone += op.num_rows
                if self._sorted is not None and self._gone > len(self._sorted) // 2:
                    self._sorted, self._gone = None, 0
            elif self._sorted is not None:
                self._added += op.batch.column(self._pk_name).to_pylist()

    def _trigger_flush(self) -> None:
        """Milvus Lite's, but rows stay in memory and in the log until they are found in their file."""
        number = self._wal.number + 1
        try:
            self._moving = True
            with self._maintenance_lock:
                flush.execute_flush(
                    self._memtable, self._wal, self._data_dir, self._schema, self._manifest, self._delta_index, number
                )
            with self._gate.changing(), self._maintenance_lock:
                self._moving = False
                self._refresh_segment_cache()
                self._memtable = MemTable(self._schema)
                self._wal = WAL(self._wal.wal_dir, self._wal_data_schema, self._wal_delta_schema, number)
                self._recovered_wal_bytes = 0
        except BaseException:
            self.failed()
            raise
        self._schedule_bg_maintenance()

    def _refresh_segment_cache(self) -> None:
        if not self._moving:  # else a compaction's would show rows twice
            super()._refresh_segment_cache()

    def load(self) -> None:
        try:
            super().load()
        except Exception as failure:
            log.warning("an index of %s cannot be read, all are built anew: %s", self.name, failure)
            for partition in self.list_partitions():
                shutil.rmtree(self._index_dir(partition), ignore_errors=True)
            super().load()

    def abandon(self) -> None:
        """End its own work without writing anything."""
        self._bg_closed = True
        self._bg_executor.shutdown(wait=True, cancel_futures=True)


milvus_lite.db.Collection = Kept


def durable(write: Callable[..., str]) -> Callable[..., str]:
    """The log of writes is deleted once its rows are in a file: that has to be on the disk by then."""

    def written(table: Any, folder: str, *more: Any, **named: Any) -> str:
        path = write(table, folder, *more, **named)
        with open(os.path.join(folder, path), "rb") as file:
            os.fsync(file.fileno())
        return path

    return written


for module, name in ((flush, "write_data_file"), (flush, "write_delta_file"), (compaction, "write_data_file")):
    setattr(module, name, durable(getattr(module, name)))


def typed(comparator: str, compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A comparison that keeps booleans and numbers apart; in Python True equals 1."""

    def compared(left: Any, right: Any) -> Any:
        if isinstance(left, bool) != isinstance(right, bool):
            return comparator == "!="
        return compare(left, right)

    return compared


python_backend._CMP_OPS = {key: typed(key, compare) for key, compare in python_backend._CMP_OPS.items()}


def narrow(compiled: Any, data: Any, evaluate: Callable[..., Any] = python_backend.evaluate_python) -> Any:
    """A filter over a table's rows, of which Milvus Lite would turn every column into Python's objects, vectors too."""
    return evaluate(compiled, data.select([name for name in data.schema.names if name in compiled.fields]))


filters.evaluate_python = python_backend.evaluate_python = narrow


class Graph(faiss_hnsw.FaissHnswIndex):  # type: ignore[misc]
    """HNSW, but for few rows, where all are compared: a walk through the graph takes ``ef`` steps, and finds little if most
    of them lead to rows that a filter excludes, or that are alike."""

    def search(
        self, queries: Any, top_k: int, valid_mask: Any = None, params: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """For vectors [n, dimension] the rows [n, top_k] and their distances, ascending; -1 and infinity where there are no
        more. ``valid_mask`` says of each row whether it may be found."""
        queries = np.ascontiguousarray(np.atleast_2d(queries), dtype=np.float32)
        if self.metric == "COSINE":
            queries = faiss_hnsw._l2_normalize(queries)
        allowed = self.num_vectors if valid_mask is None else int(np.count_nonzero(valid_mask))
        selector = None if valid_mask is None else faiss.IDSelectorBatch(np.flatnonzero(valid_mask).astype(np.int64))
        if allowed <= EXACT_ROWS:
            index, how = faiss.downcast_index(self._index.storage), faiss.SearchParameters(sel=selector)
        else:
            steps = int((params or {}).get("ef", 64)) * self.num_vectors // allowed
            index, how = self._index, faiss.SearchParametersHNSW(sel=selector, efSearch=steps)
        scores, rows = index.search(queries, top_k, params=how)
        match self.metric:
            case "L2":
                distances = np.sqrt(np.maximum(scores, 0))
            case "IP":
                distances = -scores
            case _:
                distances = 1 - scores
        return rows, np.where(rows < 0, np.inf, distances)


faiss_hnsw.FaissHnswIndex = Graph


class Store(milvus_lite.db.MilvusLite):  # type: ignore[misc]
    """Collections, each opened once, and anew from its files after a write that failed."""

    def __init__(self, folder: str) -> None:
        self._opening = threading.RLock()
        super().__init__(folder)
        collections.set_function(lambda: len(self._collections))

    def get_collection(self, name: str, database_name: str = DEFAULT_DATABASE_NAME) -> Collection:
        if (found := self._collections.get((database_name or DEFAULT_DATABASE_NAME, name))) is not None:
            return found
        with self._opening:
            found = super().get_collection(name, database_name)
            self._watch(found)
            found.load()
            return found

    def create_collection(self, *args: Any, **more: Any) -> Collection:
        with self._opening:
            made = super().create_collection(*args, **more)
            self._watch(made)
            return made

    def drop_collection(self, *args: Any, **more: Any) -> None:
        with self._opening:
            super().drop_collection(*args, **more)

    def _watch(self, collection: Kept) -> None:
        def failed() -> None:
            log.error("a write to collection %s failed; it is opened anew from its files", collection.name)
            with self._opening:
                collection.abandon()
                for key in [key for key, one in self._collections.items() if one is collection]:
                    del self._collections[key]

        collection.failed = failed

    def open_all(self) -> None:
        """Open and load every collection; one that cannot be read fails its own calls alone."""
        for database in self.list_databases():
            for name in self.list_collections(database):
                try:
                    self.get_collection(name, database)
                except Exception:
                    log.exception("collection %s cannot be opened", name)


class Servicer(MilvusServicer):  # type: ignore[misc]
    """Milvus Lite's, but that a list of collections opens none: one that cannot be read would fail it. And a delete tells how
    many rows there were, rather than the ids that it was asked for."""

    def ShowCollections(self, request: Any, context: grpc.ServicerContext) -> Any:
        database = self._database_name(request, context)
        wanted = set(request.collection_names)
        names = [n for n in self._db.list_collections(database_name=database) if not wanted or n in wanted]
        loaded = [getattr(self._db._collections.get((database, n)), "load_state", "") == "loaded" for n in names]
        return milvus_pb2.ShowCollectionsResponse(
            collection_names=names,
            inMemory_percentages=[100 * one for one in loaded],
            query_service_available=loaded,
            shards_num=[1] * len(names),
        )

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = super().Delete(request, context)
        answer.ClearField("IDs")
        return answer


class Ordered(grpc.ServerInterceptor):  # type: ignore[misc]
    """One change of a collection at a time."""

    def __init__(self) -> None:
        self._changing: WeakValueDictionary[tuple[str, str], threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = details.method.rpartition("/")[2]
        measured = duration.labels(method)

        def ordered(request: Any, context: grpc.ServicerContext) -> Any:
            with measured.time(), ExitStack() as held:
                if not method.startswith(READS):
                    with waiting.track_inprogress():
                        for lock in self._locks(request):
                            wait(lock, context)
                            held.callback(lock.release)
                    if not context.is_active():  # who asked was told that it failed
                        context.abort(grpc.StatusCode.CANCELLED, "the caller has left")
                return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            ordered, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    def _locks(self, request: Any) -> list[threading.Lock]:
        """Of the collections that a request names, always in the same order."""
        names = {getattr(request, "collection_name", ""), *getattr(request, "collection_names", ())} - {""}
        database = getattr(request, "db_name", "")
        with self._lock:
            return [self._changing.setdefault((database, name), threading.Lock()) for name in sorted(names)]


def wait(lock: threading.Lock, context: grpc.ServicerContext) -> None:
    """Have the lock, or end the call with its deadline."""
    left = context.time_remaining()
    if not lock.acquire(timeout=LONGEST_WAIT_SECONDS if left is None else max(0.0, min(left, LONGEST_WAIT_SECONDS))):
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "other changes of this collection took all the time")


def end(*_: object) -> NoReturn:
    """At once: threads that build an index would be waited for, and nothing has to be written."""
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Milvus Lite behind Milvus' gRPC API.")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=19530)
    parser.add_argument("--metrics-port", type=int, default=0, help="of Prometheus' metrics; 0: none")
    wanted = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log.setLevel(logging.INFO)
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # pymilvus asks for methods that Milvus Lite has not

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    store = Store(wanted.data_dir)
    store.open_all()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = grpc.server(
        ThreadPoolExecutor(THREADS),
        interceptors=[Ordered()],
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
            ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
            # pymilvus asks each 10 seconds whether the connection lives, which would end one that is idle for long.
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(Servicer(store), server)
    server.add_insecure_port(f"{wanted.host}:{wanted.port}")
    server.start()
    log.info("%d collections, listening on %s:%d", len(store._collections), wanted.host, wanted.port)
    if wanted.metrics_port:
        start_http_server(wanted.metrics_port, wanted.host)
    while not ended.wait(1):  # the kernel may hand the signal to another thread, which does not wake this one
        pass
    server.stop(GRACE_SECONDS).wait(GRACE_SECONDS + 1)  # a call that hangs must not keep the process
    end()


if __name__ == "__main__":
    main()
