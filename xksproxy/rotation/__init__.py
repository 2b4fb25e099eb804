"""Rotation of key versions and of SigV4 credentials."""
