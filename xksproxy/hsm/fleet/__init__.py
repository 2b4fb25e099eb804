"""The HSMs of a key store: choice of one, failover, and the check that they hold the same key."""
