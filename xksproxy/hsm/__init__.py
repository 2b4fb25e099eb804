"""The HSM engine: everything PKCS#11. It knows nothing of HTTP, of external key stores or of XKS names."""
