"""python -m services.diffusion"""

from __future__ import annotations

from genmesh.v1.diffusion_pb2_grpc import add_DiffusionServiceServicer_to_server

from services.diffusion.images import Painter
from services.diffusion.servicer import DiffusionServicer
from services.diffusion.settings import Settings
from services.runtime import logs, loop, server, tracing
from services.runtime.metrics import Diffusion, Models
from services.runtime.models import Catalogue
from services.runtime.settings import load
from services.runtime.triton import Triton


async def main() -> None:
    settings = load(Settings)
    logs.configure("diffusion", settings.log_level)
    tracing.configure("diffusion")
    registry = server.registry()
    catalogue = Catalogue(settings.models_dir)
    names = catalogue.names("diffuse", "upscale")
    triton = Triton(settings.triton_url, Models("diffusion", registry, model=names))
    catalogue.ready = triton.ready
    servicer = DiffusionServicer(catalogue, Painter(triton, Diffusion("diffusion", registry, model=names)))
    part = server.Part("genmesh.v1.DiffusionService", lambda s: add_DiffusionServiceServicer_to_server(servicer, s))
    probes = {"triton/diffuser": lambda: triton.ready(catalogue.get("diffuser", "diffuser"))}
    await server.serve("diffusion", settings, [part], probes, registry, triton.close)


loop.run(main())
