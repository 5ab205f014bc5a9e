"""The one error that ends a command, with a sentence for whoever ran it."""


class BuildError(Exception):
    """A model cannot be built, verified or served; the text says why."""
