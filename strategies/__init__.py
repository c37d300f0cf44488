"""Reading strategies, one a module, found through the entry points ``reader.strategies``."""
