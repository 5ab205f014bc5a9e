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

from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from services.runtime.deadline import left

CALL_TIMEOUT_SECONDS = 10.0
# pymilvus' codes; where the server does not answer it puts a gRPC status in their place.
CONNECT_FAILED, NOT_FOUND, NOT_LOADED = 2, 100, 101
# A collection's properties. MAKER: whose call made it; DRAFT: of a generation that does not hold yet, who fills it and until
# when; CLOSED: until when changes wait; REPLACED: the next generation holds. Times are seconds since 1970.
DESCRIPTION, METRIC, MAKER = "genmesh.description", "genmesh.metric", "genmesh.maker"
REVISION, DRAFT, CLOSED = "genmesh.model_revision", "genmesh.draft", "genmesh.closed_until"
REPLACED = "genmesh.replaced"
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
        asked,
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
    client.create_collection(
        physical, schema=schema, properties={k: v for k, v in properties.items() if v}, consistency_level="Strong",
        timeout=left(CALL_TIMEOUT_SECONDS),
    )  # fmt: skip


def ready(client: MilvusClient, physical: str, metric: str) -> None:
    """Make the index of a new collection and load it, also where who made the collection did not come to that."""
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type=metric, params={"M": 16, "efConstruction": 128})
    if not client.list_indexes(physical, timeout=left(CALL_TIMEOUT_SECONDS)):
        try:
            client.create_index(physical, index, timeout=left(CALL_TIMEOUT_SECONDS))
        except MilvusException:  # another was faster
            if not client.list_indexes(physical, timeout=left(CALL_TIMEOUT_SECONDS)):
                raise
    client.load_collection(physical, timeout=left(CALL_TIMEOUT_SECONDS))


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
