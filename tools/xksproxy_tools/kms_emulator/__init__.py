"""AWS KMS on this machine, for tests and for learning: the side that calls an XKS proxy. Never a part of a proxy."""
