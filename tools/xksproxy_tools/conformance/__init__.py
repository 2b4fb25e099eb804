"""Whether a proxy keeps to the XKS proxy API, requirement by requirement, seen from outside alone."""
