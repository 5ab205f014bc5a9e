"""Server interceptors."""
