"""Proto in, proto out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from genmesh.v1 import diffusion_pb2 as pb
from genmesh.v1 import diffusion_pb2_grpc as pb_grpc

from services.diffusion.images import Painter, order
from services.runtime.errors import Unavailable
from services.runtime.models import Catalogue
from services.runtime.outcome import Stopwatch


class DiffusionServicer(pb_grpc.DiffusionServiceServicer):
    def __init__(self, catalogue: Catalogue, painter: Painter) -> None:
        self.catalogue, self.painter = catalogue, painter

    async def _events(self, request: pb.GenerateImageRequest) -> AsyncGenerator[pb.StreamGenerateImageResponse, None]:
        card = self.catalogue.get(request.model, "diffuser", "diffuse")
        wanted = order(request, card)
        watch = Stopwatch()
        async with aclosing(self.painter.draw(card, wanted)) as progress:
            async for event in progress:
                if event.final:
                    watch.stage("draw")
                    watch.content()
                    image = pb.GenerateImageResponse(
                        image=event.picture, timings=watch.timings(), model_revision=card.revision
                    )
                    yield pb.StreamGenerateImageResponse(image=image)
                else:
                    step = pb.DiffusionStep(step=event.step, total_steps=wanted.steps, preview=event.picture)
                    yield pb.StreamGenerateImageResponse(step=step)

    async def GenerateImage(self, request: pb.GenerateImageRequest, context: Any) -> pb.GenerateImageResponse:
        async with aclosing(self._events(request)) as events:
            async for event in events:
                if event.HasField("image"):
                    image: pb.GenerateImageResponse = event.image
                    return image
        raise Unavailable("the model ended without an image", reason="MODEL_UNAVAILABLE")

    async def StreamGenerateImage(
        self, request: pb.GenerateImageRequest, context: Any
    ) -> AsyncGenerator[pb.StreamGenerateImageResponse, None]:
        async with aclosing(self._events(request)) as events:
            async for event in events:
                yield event
