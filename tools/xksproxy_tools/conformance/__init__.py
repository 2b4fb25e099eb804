"""Checks a proxy against every requirement of the XKS proxy API, from outside."""
