"""Tools around an XKS proxy: conformance suite, load tool, KMS emulator and development environment."""

__version__ = "0.1.0"
