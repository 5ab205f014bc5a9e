"""Collections of vectors in Milvus, one set a tenant."""
