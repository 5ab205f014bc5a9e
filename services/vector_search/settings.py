from pydantic import Field, SecretStr

from services.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    milvus_url: str = Field(description="http://host:port of Milvus or of Milvus Lite's server.")
    milvus_token: SecretStr = Field(SecretStr(""), description="user:password or token of a Milvus cluster.")
    milvus_patience_seconds: float = Field(
        0.0,
        ge=0,
        description="How long calls wait for a Milvus that does not answer: one of a single replica restarts.",
    )
    flush_after_seconds: float = Field(
        2.0,
        ge=0,
        description="Seal new vectors once no more came for so long; 0: never, as a Milvus cluster does by itself.",
    )
