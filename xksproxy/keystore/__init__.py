"""Key stores: their path prefixes and credentials, and the external keys that they expose."""
