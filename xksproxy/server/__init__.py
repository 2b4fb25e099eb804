"""HTTPS towards KMS: listener, TLS, the order of a request, and the worker processes. The only user of aiohttp."""
