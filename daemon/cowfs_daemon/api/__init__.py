"""The HTTP API v1 of a store's daemon: a translation of requests into calls of an engine, and nothing more."""
