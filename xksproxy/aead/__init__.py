"""Byte layouts for AES-GCM: composed AAD, ciphertext metadata, ciphertext data integrity value. Pure functions."""
