"""How a vault goes from one database to another, into an archive and back: every row as it is, nothing sealed anew."""
