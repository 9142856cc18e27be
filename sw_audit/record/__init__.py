"""What comes out of an audit: everything that was found, measured and judged, as frozen values and as JSON."""
