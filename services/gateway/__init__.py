"""The one door: finds the tenant of a key, forwards bytes, measures."""
