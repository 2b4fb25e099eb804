"""The audit log, the log and the metrics of the proxy."""
