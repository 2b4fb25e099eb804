"""An AWS KMS external key store (XKS) proxy for production."""

__version__ = "0.1.0"
