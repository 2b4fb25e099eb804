"""AWS JSON 1.1 as KMS speaks it: requests and answers by botocore's model of the service, and who is calling."""
