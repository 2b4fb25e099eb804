"""An emulator of AWS KMS, for tests and for learning. It calls XKS proxies as AWS KMS does."""
