from pydantic import Field

from services.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    milvus_url: str = Field(description="http://host:port of Milvus or of Milvus Lite's server.")
    milvus_token: str = Field("", description="user:password or token of a Milvus cluster.")
    flush_after_seconds: float = Field(2.0, gt=0, description="Seal new vectors once no more came for so long.")
