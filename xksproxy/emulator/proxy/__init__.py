"""An XKS proxy as AWS KMS sees it: calls over TLS within 250 ms, answers checked strictly, and what follows from them."""
