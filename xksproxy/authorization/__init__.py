"""Whether a caller may use a key, by the Cedar policies of a key store. cedarpy is known here alone."""
