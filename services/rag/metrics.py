from prometheus_client import CollectorRegistry, Counter, Histogram

from services.runtime import buckets

STAGES = ("embed", "search", "rerank", "fit", "generate", "check")
GROUNDINGS = ("supported", "quotation", "no_answer")


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.stage = Histogram(
            "genmesh_rag_stage_duration_seconds",
            "Stages of an answer.",
            ["stage"],
            buckets=buckets.DURATION_SECONDS,
            registry=registry,
        )
        for stage in STAGES:
            self.stage.labels(stage)
        self.answers = Counter(
            "genmesh_rag_answers", "Answers, by how they came about.", ["grounding"], registry=registry
        )
        for grounding in GROUNDINGS:
            self.answers.labels(grounding)
        self.rejected = Counter(
            "genmesh_rag_rejected_sentences",
            "Generated sentences that their passage did not support.",
            registry=registry,
        )
        self.documents = Counter(
            "genmesh_rag_documents", "Documents of Ingest, by outcome.", ["outcome"], registry=registry
        )
        for outcome in ("ingested", "failed"):
            self.documents.labels(outcome)
        self.passages = Counter("genmesh_rag_passages_stored", "Passages stored.", registry=registry)
