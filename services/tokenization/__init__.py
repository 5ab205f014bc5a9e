"""Tokens: encode, decode, count, chat templates, chunks, fitting into a context."""
