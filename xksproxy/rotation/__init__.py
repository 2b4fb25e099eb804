"""Making another version of an external key the one that encrypts, and taking old ones out of use."""
