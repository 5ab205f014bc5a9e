from prometheus_client import CollectorRegistry, Counter, Histogram

from services.runtime import buckets


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.images = Counter("genmesh_diffusion_images", "Images drawn.", registry=registry)
        self.upscaled = Counter("genmesh_diffusion_upscaled_images", "Images doubled in size.", registry=registry)
        self.steps = Counter("genmesh_diffusion_steps", "Steps that the model ran.", registry=registry)
        self.cancelled = Counter(
            "genmesh_diffusion_cancelled", "Images whose caller went away or whose deadline passed.", registry=registry
        )
        self.saved_steps = Counter(
            "genmesh_diffusion_saved_steps", "Steps that cancelled images did not run.", registry=registry
        )
        self.step_duration = Histogram(
            "genmesh_diffusion_step_duration_seconds",
            "Between two steps.",
            buckets=buckets.TTFT_SECONDS,
            registry=registry,
        )
