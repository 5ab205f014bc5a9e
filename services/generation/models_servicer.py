"""ModelService: what the build says of each model, and what Triton says of it now."""

from __future__ import annotations

from typing import Any

from genmesh.v1 import models_pb2 as pb
from genmesh.v1 import models_pb2_grpc as pb_grpc

from services.runtime.errors import GenmeshError
from services.runtime.models import Card, Catalogue
from services.runtime.triton import Triton
from services.runtime.validation import Fields

Index = dict[tuple[str, str], list[str]]
TASKS = {
    "embed": pb.MODEL_TASK_EMBED,
    "rerank": pb.MODEL_TASK_RERANK,
    "generate": pb.MODEL_TASK_GENERATE,
    "diffuse": pb.MODEL_TASK_DIFFUSE,
    "upscale": pb.MODEL_TASK_UPSCALE,
}


class ModelServicer(pb_grpc.ModelServiceServicer):
    def __init__(self, catalogue: Catalogue, triton: Triton) -> None:
        self.catalogue, self.triton = catalogue, triton

    async def _index(self) -> tuple[Index, int]:
        """As Triton.index; 0 replicas where none answers."""
        try:
            return await self.triton.index()
        except GenmeshError:
            return {}, 0

    def _model(self, card: Card, index: Index, replicas: int) -> pb.Model:
        reasons = index.get((card.name, card.version), [])
        reasons = reasons + ["Triton does not know the model"] * (replicas - len(reasons)) or ["Triton does not answer"]
        reason = next((reason for reason in reasons if reason), "")
        ready = reasons.count("")
        if reason and (broken := self.triton.broken.get(card.name)):
            reason += f"; before that: {broken}"
        facts = card.facts
        return pb.Model(
            name=card.name, task=TASKS[card.task], ready=ready > 0, not_ready_reason=reason,
            ready_replica_count=ready, replica_count=replicas,
            revision=facts["revision"], version=facts["version"], precision=facts["precision"], engine=facts["engine"],
            context_tokens=card.context_tokens, dimension=facts.get("dimension", 0) if card.task == "embed" else 0,
            source=facts["source"], parameter_count=facts["parameter_count"],
            verification=[pb.VerificationFigure(**figure) for figure in facts["verification"]],
            memory_bytes=facts.get("memory_bytes", 0),
            limits=pb.ModelLimits(
                concurrent_requests=facts.get("max_sequences", 0), waiting_requests=facts.get("max_waiting", 0),
                pixels=facts.get("max_pixels", 0), adapters=facts.get("max_adapters", 0),
                kv_cache_bytes=int(facts.get("kv_cache_gigabytes", 0) * 2**30),
            ),
            adapters=card.adapters, throughput=facts.get("speed", 0.0), throughput_unit=facts.get("speed_unit", ""),
            inference_precision=facts.get("inference_precision", ""),
        )  # fmt: skip

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        index, replicas = await self._index()
        cards = sorted(self.catalogue.cards.values(), key=lambda card: card.name)
        return pb.ListModelsResponse(models=[self._model(card, index, replicas) for card in cards])

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        fields = Fields()
        fields.text("name", request.name, most=200)
        fields.done()
        card = self.catalogue.get(request.name, request.name)
        return pb.GetModelResponse(model=self._model(card, *await self._index()))
