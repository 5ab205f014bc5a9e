"""ModelService: what is loaded, and how it is."""

from __future__ import annotations

import pytest
from genmesh import Client
from genmesh.errors import InvalidArgument, NotFound
from genmesh.v1 import models_pb2 as pb


def test_every_model_is_listed_and_ready(client: Client) -> None:
    models = {m.name: m for m in client.models.ListModels({}).models}
    assert list(models) == ["diffuser", "embedder", "generator", "reranker", "upscaler"]
    assert all(m.ready and not m.not_ready_reason and m.revision and m.precision for m in models.values())
    assert {(m.ready_replica_count, m.replica_count) for m in models.values()} == {(1, 1)}
    assert {m.inference_precision for m in models.values()} == {"f32"}
    assert models["generator"].limits.concurrent_requests == 64
    assert models["generator"].limits.kv_cache_bytes == 2**30
    assert models["generator"].limits.adapters == 4
    assert models["upscaler"].limits.pixels == models["diffuser"].limits.pixels == 2**20
    assert models["embedder"].dimension == 384
    assert models["generator"].task == pb.MODEL_TASK_GENERATE
    assert models["generator"].context_tokens > 0
    figures = {name: {f.name: f for f in model.verification} for name, model in models.items()}
    assert set(figures["embedder"]) == {"cosine_mean", "cosine_min", "ndcg_at_10"}
    assert "ndcg_at_10" in figures["reranker"]
    assert {"psnr_db", "ssim"} <= set(figures["diffuser"])
    assert {"psnr_over_bicubic_db", "sharpness_over_bicubic"} <= set(figures["upscaler"])
    ndcg = figures["embedder"]["ndcg_at_10"]
    assert ndcg.bound == pytest.approx(ndcg.reference - 0.02)
    assert set(figures["generator"]) == {"top1_agreement", "perplexity_ratio"}
    assert 0.99 <= figures["embedder"]["cosine_mean"].bound <= figures["embedder"]["cosine_mean"].value < 1
    assert figures["generator"]["perplexity_ratio"].value <= figures["generator"]["perplexity_ratio"].bound
    assert client.models.GetModel({"name": "generator"}).model == models["generator"]


def test_an_unknown_model_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound) as failure:
        client.models.GetModel({"name": "nobody"})
    assert failure.value.reason == "MODEL_NOT_FOUND"
    with pytest.raises(InvalidArgument):
        client.models.GetModel({"name": ""})
