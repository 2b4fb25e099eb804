"""Puts load on a proxy as AWS KMS does, and records the result of every request."""
