"""The target descriptions that ship with mcompiler: one TOML file each, read as package data."""
