"""Authorization by the Cedar policies of a key store. Only this package imports cedarpy."""
