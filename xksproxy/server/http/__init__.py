"""HTTP/1.1 over TLS for the public listener: bytes in, requests out, and back."""
