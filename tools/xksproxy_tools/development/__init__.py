"""What makes a laptop a place to try the proxy: a SoftHSM2 token, a certificate authority, a configuration."""
