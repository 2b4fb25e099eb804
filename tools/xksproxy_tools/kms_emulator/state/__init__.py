"""The state file: key stores, KMS keys, aliases and tags, in one SQLite file of mode 0600."""
