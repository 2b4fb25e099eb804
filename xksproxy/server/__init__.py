"""The HTTPS server for KMS: listeners, TLS, the order of a request, worker processes. Only here is aiohttp used."""
