"""The HSM engine: everything that uses PKCS#11. It does not depend on HTTP, external key stores or the XKS API."""
