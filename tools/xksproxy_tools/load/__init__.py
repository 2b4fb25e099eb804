"""Load on a proxy as AWS KMS makes it, and what every request met with."""
