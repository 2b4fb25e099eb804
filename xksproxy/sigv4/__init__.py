"""AWS Signature Version 4: verification and signing, as pure functions of a request, secrets and a time."""
