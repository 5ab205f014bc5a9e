from prometheus_client import CollectorRegistry, Counter, Histogram

from services.runtime import buckets

OPERATIONS = ("create", "describe", "list", "drop", "upsert", "delete", "query", "search", "flush")


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.store = Histogram(
            "genmesh_vector_search_store_duration_seconds", "Calls to Milvus.", ["operation"],
            buckets=buckets.DURATION_SECONDS, registry=registry,
        )  # fmt: skip
        for operation in OPERATIONS:
            self.store.labels(operation)
        self.upserted = Counter("genmesh_vector_search_entities_upserted", "Entities stored.", registry=registry)
        self.deleted = Counter("genmesh_vector_search_entities_deleted", "Entities deleted.", registry=registry)
