from services.runtime.settings import CacheSettings, ModelSettings


class Settings(CacheSettings, ModelSettings):
    """Nothing of its own."""
