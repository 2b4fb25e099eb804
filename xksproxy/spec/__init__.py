"""The XKS proxy API v1 as data: names, limits, messages, errors and URIs. It knows no HTTP and no HSM."""
