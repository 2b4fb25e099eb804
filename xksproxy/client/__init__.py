"""Signed calls to any XKS proxy, as AWS KMS makes them."""
