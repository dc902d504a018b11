"""The registry: accounts, API tokens, models and inference services."""
