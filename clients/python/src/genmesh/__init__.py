"""Genmesh's client: tokens, embeddings, vector search, text, images and grounded answers over gRPC."""

from genmesh.client import Client
from genmesh.errors import GenmeshError

__all__ = ["Client", "GenmeshError"]
