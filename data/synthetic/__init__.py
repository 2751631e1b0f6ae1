"""Generated tasks for offline use: drawn, seeded, with a known answer."""
