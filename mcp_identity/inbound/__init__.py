"""Who is calling: credentials that callers bring."""
