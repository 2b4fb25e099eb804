"""Calls to XKS proxies as AWS KMS makes them: a limit of 250 ms, strict checks of responses, and KMS's errors."""
