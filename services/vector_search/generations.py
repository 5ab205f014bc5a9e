"""Where a tenant's collection stands in Milvus.

Its first generation has its own name. To replace all vectors a draft of another generation is filled beside it. One property
of the old generation, REPLACED, is the turn: from then on the draft holds. Then the draft's mark goes, and the old generation
is dropped; where that is interrupted, it holds nothing any more. So there is no moment without a collection, and none with two.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any

from pymilvus import DataType, Function, FunctionType, MilvusClient
from pymilvus.exceptions import MilvusException

from services.runtime.deadline import left
from services.runtime.errors import FailedPrecondition
from services.vector_search.analysis import DEFAULT, MOST_BYTES

CALL_TIMEOUT_SECONDS = 10.0
# pymilvus' codes; where the server does not answer it puts a gRPC status in their place.
CONNECT_FAILED, NOT_FOUND, NOT_LOADED = 2, 100, 101
# A collection's properties. MAKER: whose call made it; DRAFT: of a generation that does not hold yet, who fills it and until
# when; CLOSED: until when changes wait; REPLACED: the next generation holds. Times are seconds since 1970. ANALYZER is missing
# where there is no BM25 search: of collections that were made before there was, or in a Milvus that has none.
DESCRIPTION, METRIC, MAKER = "genmesh.description", "genmesh.metric", "genmesh.maker"
REVISION, DRAFT, CLOSED = "genmesh.model_revision", "genmesh.draft", "genmesh.closed_until"
REPLACED, ANALYZER = "genmesh.replaced", "genmesh.analyzer"
CONTEXT_BYTES = 8192
# BM25 came with Milvus 2.5.
WITHOUT_BM25 = re.compile(r"v?2\.[0-4]\.")
# Robertson, Zaragoza 2009: "The Probabilistic Relevance Framework: BM25 and Beyond". Milvus' own defaults.
BM25 = {"bm25_k1": 1.2, "bm25_b": 0.75}
NUMBER = re.compile(r"__g([1-9][0-9]*)$")  # no other has two underscores: see Store.physical


@dataclass(frozen=True)
class Shape:
    """What a collection's vectors are, and where they stand."""

    physical: str
    dimension: int
    metric: str  # Milvus' name: COSINE, IP or L2
    description: str = ""
    revision: str = ""  # of the model that made them; empty where that is not known
    closed_until: float = 0.0
    analyzer: str = ""  # of the words that BM25 counts; where empty there are none, nor contexts
    asked: float = field(default=0.0, compare=False)  # when, on the monotonic clock


def number_of(physical: str) -> int:
    found = NUMBER.search(physical)
    return int(found[1]) if found else 0


def first_of(physical: str) -> str:
    return NUMBER.sub("", physical)


def following(physical: str) -> str:
    """Of a new generation. No number is used twice: a replica may still know what an earlier one was."""
    return f"{first_of(physical)}__g{max(number_of(physical) + 1, int(time.time()))}"


def generations(client: MilvusClient, base: str) -> list[str]:
    """The physical names that there are, lowest generation first."""
    found = client.list_collections(timeout=left(CALL_TIMEOUT_SECONDS))
    return sorted((name for name in found if first_of(name) == base), key=number_of)


def properties_of(client: MilvusClient, physical: str) -> tuple[Shape, dict[str, str]] | None:
    """None where it is not there."""
    asked = time.monotonic()
    try:
        found = client.describe_collection(physical, timeout=left(CALL_TIMEOUT_SECONDS))
        said: dict[str, str] = found.get("properties") or {}
        metric = said.get(METRIC)
        if metric is None:  # made before metrics were among the properties
            metric = client.describe_index(physical, "vector", timeout=left(CALL_TIMEOUT_SECONDS))["metric_type"]
    except MilvusException as failure:
        if failure.code != NOT_FOUND:
            raise
        return None
    dimension = next(f for f in found["fields"] if f["name"] == "vector")["params"]["dim"]
    shape = Shape(
        physical, int(dimension), metric, said.get(DESCRIPTION, ""), said.get(REVISION, ""), float(said.get(CLOSED, 0)),
        said.get(ANALYZER, ""), asked,
    )  # fmt: skip
    return shape, said


def whole(client: MilvusClient, physical: str) -> Shape | None:
    """None where it is not there, a draft, or replaced."""
    found = properties_of(client, physical)
    return found[0] if found and not {DRAFT, REPLACED} & found[1].keys() else None


def holding(client: MilvusClient, base: str) -> Shape | None:
    """The generation that holds; None where there is no such collection."""
    replaced = False
    for name in generations(client, base):
        found = properties_of(client, name)
        if found is None:
            continue
        if REPLACED in found[1]:
            replaced = True
        elif replaced or DRAFT not in found[1]:
            return found[0]
    return None


def make(client: MilvusClient, physical: str, dimension: int, properties: dict[str, str]) -> None:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=256)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("text", DataType.VARCHAR, max_length=65_535)
    schema.add_field("metadata", DataType.JSON)
    if properties.get(ANALYZER):
        split = {"tokenizer": "whitespace"}  # analysis.py has made the words
        schema.add_field("context", DataType.VARCHAR, max_length=CONTEXT_BYTES)
        schema.add_field("words", DataType.VARCHAR, max_length=MOST_BYTES, enable_analyzer=True, analyzer_params=split)
        schema.add_field("counts", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function("bm25", FunctionType.BM25, input_field_names=["words"], output_field_names=["counts"])
        )
    client.create_collection(
        physical, schema=schema, properties={k: v for k, v in properties.items() if v}, consistency_level="Strong",
        timeout=left(CALL_TIMEOUT_SECONDS),
    )  # fmt: skip


def analyzer_for(client: MilvusClient, wanted: str) -> str:
    """The analyzer of a new collection; none where Milvus is too old. FAILED_PRECONDITION where one is asked for there."""
    version = client.get_server_version(timeout=left(CALL_TIMEOUT_SECONDS))
    if not WITHOUT_BM25.match(version):
        return wanted or DEFAULT
    if wanted:
        raise no_bm25(f"analyzer: Milvus {version} has no BM25 search; 2.5 and later have")
    return ""


def no_bm25(text: str) -> FailedPrecondition:
    return FailedPrecondition(text, reason="BM25_NOT_AVAILABLE", metadata={"field": text.partition(":")[0]})


def ready(client: MilvusClient, shape: Shape) -> None:
    """Make the indexes of a new collection and load it, also where who made the collection did not come to that."""
    _index(
        client, shape.physical, "vector", index_type="HNSW", metric_type=shape.metric,
        params={"M": 16, "efConstruction": 128},
    )  # fmt: skip
    if shape.analyzer:
        _index(client, shape.physical, "counts", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=BM25)
    client.load_collection(shape.physical, timeout=left(CALL_TIMEOUT_SECONDS))


def _index(client: MilvusClient, physical: str, field_name: str, **options: Any) -> None:
    def there() -> bool:
        return bool(client.list_indexes(physical, field_name=field_name, timeout=left(CALL_TIMEOUT_SECONDS)))

    if there():
        return
    index = client.prepare_index_params()
    index.add_index(field_name, **options)
    try:
        client.create_index(physical, index, timeout=left(CALL_TIMEOUT_SECONDS))
    except MilvusException:  # another was faster
        if not there():
            raise


def drop(client: MilvusClient, physical: str, seconds: float = CALL_TIMEOUT_SECONDS) -> None:
    client.drop_collection(physical, timeout=left(seconds))


def clear(client: MilvusClient, base: str) -> None:
    """Drop what is left of a collection that was deleted. Another may make it meanwhile: what is whole stays."""
    for name in generations(client, base):
        found = properties_of(client, name)
        if found and {DRAFT, REPLACED} & found[1].keys():
            drop(client, name)


def count(client: MilvusClient, physical: str) -> int:
    found = client.query(physical, filter="", output_fields=["count(*)"], timeout=left(CALL_TIMEOUT_SECONDS))
    return int(found[0]["count(*)"])


def mark(client: MilvusClient, physical: str, properties: dict[str, Any]) -> None:
    """Set properties, by their keys; None takes one away."""
    given = {key: str(value) for key, value in properties.items() if value is not None}
    if given:
        client.alter_collection_properties(physical, given, timeout=left(CALL_TIMEOUT_SECONDS))
    if gone := [key for key, value in properties.items() if value is None]:
        client.drop_collection_properties(physical, gone, timeout=left(CALL_TIMEOUT_SECONDS))
