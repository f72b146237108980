"""What do vendors look like: their facts as data, one TOML file each."""
