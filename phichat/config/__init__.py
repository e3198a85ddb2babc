"""Settings and endpoints, from flags, the environment and config.toml."""
