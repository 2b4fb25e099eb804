"""Proving a proxy, ours or another, from outside: whether it keeps the specification, and how fast it is."""
