"""Benchmarks: the proxy compared with a baseline, with other settings, and with other proxies.

``./dev bench`` runs it.
"""
