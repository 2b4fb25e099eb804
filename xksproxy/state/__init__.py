"""Durable state: what the workers of a machine share and what outlives them, in files of the state directory."""
