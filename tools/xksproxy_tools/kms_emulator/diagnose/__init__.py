"""What AWS KMS would say of a proxy, found out step by step as KMS would go, and what to do about it."""
