"""Proto in, proto out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from genmesh.v1 import diffusion_pb2 as pb
from genmesh.v1 import diffusion_pb2_grpc as pb_grpc

from services.diffusion.images import Painter, from_file, order, to_png
from services.runtime.errors import Unavailable, invalid
from services.runtime.models import Catalogue
from services.runtime.outcome import Stopwatch
from services.runtime.work import ALWAYS, aside


class DiffusionServicer(pb_grpc.DiffusionServiceServicer):
    def __init__(self, catalogue: Catalogue, painter: Painter) -> None:
        self.catalogue, self.painter = catalogue, painter

    async def _events(
        self, request: pb.GenerateImageRequest, context: Any
    ) -> AsyncGenerator[pb.StreamGenerateImageResponse, None]:
        card = self.catalogue.get(request.model, "diffuser", "diffuse")
        wanted = order(request, card)
        upscaler = self.catalogue.get("", "upscaler", "upscale") if wanted.upscale else None
        if upscaler is not None and wanted.width * wanted.height > (most := upscaler.facts["max_pixels"]):
            raise invalid("upscale", f"is for images of at most {most} pixels; this has {wanted.width * wanted.height}")
        watch = Stopwatch()
        async with aclosing(self.painter.draw(card, wanted)) as progress:
            async for event in progress:
                picture = event.pixels
                if event.final and picture is not None:
                    watch.stage("draw")
                    if upscaler is not None:
                        # Drawing takes its time: another version may be served by now.
                        upscaler = self.catalogue.get("", "upscaler", "upscale")
                        picture = await self.painter.upscale(upscaler, picture, context.time_remaining())
                        watch.stage("upscale")
                    watch.content()
                    drawn = await aside(picture.nbytes, to_png, picture, wanted.seed)
                    image = pb.GenerateImageResponse(
                        image=drawn, timings=watch.timings(), model_revision=card.revision,
                        truncated_fields=wanted.truncated,
                    )  # fmt: skip
                    yield pb.StreamGenerateImageResponse(image=image)
                else:
                    preview = None
                    if picture is not None:
                        preview = await aside(picture.nbytes, to_png, picture, wanted.seed)
                    step = pb.DiffusionStep(step=event.step, total_steps=wanted.steps, preview=preview)
                    yield pb.StreamGenerateImageResponse(step=step)

    async def GenerateImage(self, request: pb.GenerateImageRequest, context: Any) -> pb.GenerateImageResponse:
        image: pb.GenerateImageResponse | None = None
        async with aclosing(self._events(request, context)) as events:
            async for event in events:  # to the end: to leave early is to cancel
                if event.HasField("image"):
                    image = event.image
        if image is not None:
            return image
        raise Unavailable("the model ended without an image", reason="MODEL_UNAVAILABLE")

    async def UpscaleImage(self, request: pb.UpscaleImageRequest, context: Any) -> pb.UpscaleImageResponse:
        card = self.catalogue.get(request.model, "upscaler", "upscale")
        watch = Stopwatch()
        pixels = await aside(ALWAYS, from_file, request.image, card)
        watch.stage("read")
        larger = await self.painter.upscale(card, pixels, context.time_remaining())
        watch.stage("upscale")
        image = await aside(larger.nbytes, to_png, larger, 0)
        watch.stage("write")
        watch.content()
        return pb.UpscaleImageResponse(image=image, timings=watch.timings(), model_revision=card.revision)

    async def StreamGenerateImage(
        self, request: pb.GenerateImageRequest, context: Any
    ) -> AsyncGenerator[pb.StreamGenerateImageResponse, None]:
        async with aclosing(self._events(request, context)) as events:
            async for event in events:
                yield event
