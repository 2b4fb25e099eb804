"""Checks a proxy in the steps in which KMS uses it, and reports what KMS would answer and what to do."""
