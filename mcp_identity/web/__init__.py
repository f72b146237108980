"""The browser edge."""
