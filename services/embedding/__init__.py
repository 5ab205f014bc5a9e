"""Vectors of texts and the order of passages, computed by Triton and cached."""
