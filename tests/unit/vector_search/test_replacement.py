"""Replacements that meet; tests/integration has the rest."""

from __future__ import annotations

import secrets
import time

import pytest
from genmesh.v1 import vector_search_pb2 as pb

from services.runtime.errors import Aborted
from services.vector_search.generations import DRAFT, generations, mark
from services.vector_search.replacement import MARK_SECONDS, Replacement
from services.vector_search.servicer import VectorSearchServicer
from services.vector_search.store import Store


async def test_who_meets_a_call_that_was_killed_is_told_when_its_mark_ends(
    replicas: list[VectorSearchServicer],
) -> None:
    name, store = "docs-" + secrets.token_hex(4), replicas[0].store
    collection = pb.Collection(name=name, dimension=2, model_revision="small@1")
    await replicas[0].CreateCollection(pb.CreateCollectionRequest(collection=collection), None)
    assert await Replacement(store, "acme", name, "large@2", 3).begin()  # and then nothing

    async def refused() -> Aborted:
        with pytest.raises(Aborted) as caught:
            await Replacement(replicas[1].store, "acme", name, "large@2", 3).begin()
        assert caught.value.reason == "REPLACEMENT_RUNNING"
        assert "or was killed less than a minute ago" in str(caught.value)
        return caught.value

    assert 1 < ((await refused()).retry_after_seconds or 0) <= MARK_SECONDS
    draft = (await store.call("list", lambda c: generations(c, Store.physical("acme", name))))[-1]
    until = time.time() + 20
    await store.call("alter", lambda c: mark(c, draft, {DRAFT: f"dead {until}"}))
    left = (await refused()).retry_after_seconds or 0
    assert max(1, until - time.time()) <= left <= 20
    await store.call("alter", lambda c: mark(c, draft, {DRAFT: f"dead {time.time()}"}))
    assert await Replacement(replicas[1].store, "acme", name, "large@2", 3).begin()
