"""Dashboards, rules and the metrics table, made from the metrics' declarations; ``python -m deploy.observability``."""
