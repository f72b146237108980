"""How the schema came to be: one Alembic lineage for every database."""
