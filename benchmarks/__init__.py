"""How fast the proxy is, side by side with what it could be at best, with itself otherwise set, and with others.

``./dev bench`` runs it.
"""
