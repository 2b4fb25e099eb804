"""The XKS proxy API v1 as data: names, limits, messages, errors and URIs. It contains no HTTP and no HSM code."""
