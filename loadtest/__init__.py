"""Load and benchmarks of a running cluster."""
