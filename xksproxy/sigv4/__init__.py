"""AWS Signature Version 4, verifying and signing, as pure functions of a request, secrets and a clock."""
