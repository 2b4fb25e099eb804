"""Byte layouts around AES-GCM: the composed AAD and the ciphertext data integrity value. Pure functions."""
