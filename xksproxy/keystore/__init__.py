"""Logical key stores: who may call under which path, and which external keys exist for them."""
