"""What the proxy tells about itself: the audit log and metrics."""
