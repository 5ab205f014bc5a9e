from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from services.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    max_message_bytes: int = Field(24 * 2**20, ge=1024, description="Largest request message; a document is one.")
    tokenization_url: str = Field(description="host:port of the service; the same below.")
    embedding_url: str = Field()
    vector_search_url: str = Field()
    generation_url: str = Field()
    passage_tokens: int = Field(96, ge=16, le=512, description="Most tokens of a passage, by the embedding model.")
    passage_overlap_tokens: int = Field(
        0, ge=0, description="Most tokens that a passage repeats of the one before; less than half of passage_tokens."
    )
    parent_tokens: int = Field(
        400, ge=16, le=8192, description="Most tokens of a parent: neighbouring passages that are read as one text."
    )
    candidates: int = Field(24, ge=1, le=200, description="Passages that a search hands to the reranker.")
    search_mode: Literal["hybrid", "dense"] = Field(
        "hybrid",
        description="How passages are searched where a request does not say: by vectors and words, or vectors.",
    )
    parents: bool = Field(False, description="Default of the request field with this name; the same below.")
    expansions: int = Field(0, ge=0, le=5)
    hyde: bool = Field(False)
    parents_seconds: float = Field(
        2, gt=0, description="Time limit of the stage, and at most half of the call's remaining time; the same below."
    )
    rewrite_seconds: float = Field(5, gt=0)
    expand_seconds: float = Field(5, gt=0)
    hyde_seconds: float = Field(5, gt=0)
    abandoned_after_seconds: float = Field(
        120, gt=0, description="A writer of which nothing came for so long is dead, and what it wrote is cleared up."
    )
    reads: Literal["sentence", "passages"] = Field(
        "sentence",
        description="What the generator reads: the most relevant sentence, from which a small model answers best; or all "
        "passages, for a model of a billion parameters or more, which is then believed if it says that none answers.",
    )
    answer_threshold: float = Field(
        0.475,
        ge=0,
        le=1,
        description="Below it the reply says that no passage answers: the most relevant sentence's relevance, and the share of "
        "the question's words that are in its passage, 10 to 3.",
    )

    @field_validator("passage_overlap_tokens")
    @classmethod
    def _overlap(cls, value: int, info: ValidationInfo) -> int:
        if value >= info.data.get("passage_tokens", 512) / 2:
            raise ValueError("must be less than half of GENMESH_PASSAGE_TOKENS")
        return value
