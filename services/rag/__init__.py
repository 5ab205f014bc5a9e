"""Grounded answers: ingestion, retrieval, generation, and the check of each citation."""
