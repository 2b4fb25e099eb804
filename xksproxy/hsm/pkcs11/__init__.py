"""The PKCS#11 binding: modules, tokens, log-in, and the C functions with their return values."""
