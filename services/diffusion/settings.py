from services.runtime.settings import TritonSettings


class Settings(TritonSettings):
    """Nothing of its own."""
