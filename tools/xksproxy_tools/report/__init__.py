"""HTML reports in one file, with charts in SVG. They load nothing from elsewhere."""
