"""Text from the generator, and what models the cluster serves."""
