"""What vendors look like: one TOML file each."""
