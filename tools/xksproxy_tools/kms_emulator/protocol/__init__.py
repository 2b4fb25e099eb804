"""AWS JSON 1.1 of KMS: requests and responses by botocore's model of the service, and the caller of a request."""
