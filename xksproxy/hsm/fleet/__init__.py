"""The HSMs of a key store: choosing one, failing over, and proof that they hold the same key."""
