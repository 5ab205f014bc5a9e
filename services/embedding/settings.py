from services.runtime.settings import CacheSettings, TritonSettings


class Settings(CacheSettings, TritonSettings):
    """Nothing of its own."""
