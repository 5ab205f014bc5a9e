"""python -m services.generation"""

from __future__ import annotations

from genmesh.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from genmesh.v1.models_pb2_grpc import add_ModelServiceServicer_to_server

from services.generation.models_servicer import ModelServicer
from services.generation.servicer import GenerationServicer
from services.generation.settings import Settings
from services.generation.text import Generator
from services.runtime import logs, loop, server, tracing
from services.runtime.metrics import Generation, Models
from services.runtime.models import Catalogue
from services.runtime.settings import load
from services.runtime.triton import Triton


async def main() -> None:
    settings = load(Settings)
    logs.configure("generation", settings.log_level)
    tracing.configure("generation")
    registry = server.registry()
    catalogue = Catalogue(settings.models_dir)
    names = catalogue.names("generate")
    triton = Triton(settings.triton_url, Models("generation", registry, model=names))
    catalogue.ready = triton.ready
    generation = GenerationServicer(catalogue, Generator(triton, Generation("generation", registry, model=names)))
    models = ModelServicer(catalogue, triton)
    parts = [
        server.Part("genmesh.v1.GenerationService", lambda s: add_GenerationServiceServicer_to_server(generation, s)),
        server.Part("genmesh.v1.ModelService", lambda s: add_ModelServiceServicer_to_server(models, s)),
    ]
    probes = {"triton/generator": lambda: triton.ready(catalogue.get("generator", "generator"))}
    await server.serve("generation", settings, parts, probes, registry, triton.close)


loop.run(main())
