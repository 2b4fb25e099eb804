"""What outlives a restart: key stores, KMS keys, aliases, tags, in one SQLite file of mode 0600."""
