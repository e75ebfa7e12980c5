"""One thin adapter per runtime, all behind the same seam."""
