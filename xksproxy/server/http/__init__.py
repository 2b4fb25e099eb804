"""HTTP/1.1 over TLS for the public listener: from bytes to requests, and from responses to bytes."""
