"""Where a study's parts are, and what surrounds its processes."""
