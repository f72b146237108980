"""How it is kept: the encrypted store."""
