"""What units of work read and write, one module per noun."""
