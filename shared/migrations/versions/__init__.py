"""The embedded broker's tables, version by version."""
