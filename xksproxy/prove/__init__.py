"""Proofs about a running proxy, ours or another's: whether it keeps to the API, and how fast it is."""
