"""The operator edge."""
