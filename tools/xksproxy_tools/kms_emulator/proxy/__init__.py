"""An XKS proxy as AWS KMS sees it: calls within 250 ms, answers checked strictly, and what KMS makes of failures."""
