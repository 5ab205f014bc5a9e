"""Benchmarks against peers on the same weights; ``python -m loadtest.peers --help``."""
