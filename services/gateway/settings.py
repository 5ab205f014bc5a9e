from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from services.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    max_message_bytes: int = Field(24 * 2**20, ge=1024, description="Largest request message; services may take less.")
    api_keys_file: Path = Field(description="YAML: a list of {tenant, sha256} of the keys that are let in.")
    status_port: int = Field(0, ge=0, le=65535, description="Port of the status page (HTTP); none where 0.")
    tls_certificate_file: Path | None = Field(
        None, description="PEM chain of the gateway's certificate, read again when it changes; plain text where unset."
    )
    tls_key_file: Path | None = Field(None, description="PEM of its private key.")
    tokenization_url: str = Field(description="host:port of the service; the same below.")
    embedding_url: str = Field()
    vector_search_url: str = Field()
    generation_url: str = Field()
    diffusion_url: str = Field()
    rag_url: str = Field()

    @model_validator(mode="after")
    def _both_or_none(self) -> Settings:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file belong together")
        return self
