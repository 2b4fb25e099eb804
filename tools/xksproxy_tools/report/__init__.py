"""Reports that are one file: HTML that loads nothing, with charts drawn in it."""
