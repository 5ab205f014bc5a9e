from pathlib import Path

from pydantic import Field

from services.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    api_keys_file: Path = Field(description="YAML: a list of {tenant, sha256} of the keys that are let in.")
    status_port: int = Field(0, ge=0, le=65535, description="Port of the status page (HTTP); none where 0.")
    tokenization_url: str = Field(description="host:port of the service; the same below.")
    embedding_url: str = Field()
    vector_search_url: str = Field()
    generation_url: str = Field()
    diffusion_url: str = Field()
    rag_url: str = Field()
