"""The schema of the registry's database, step by step."""
