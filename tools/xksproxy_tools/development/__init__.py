"""The development environment: a SoftHSM2 token, a certificate authority, a configuration."""
