"""Images from the diffuser."""
