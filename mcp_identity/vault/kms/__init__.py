"""Key backends: one file each."""
