"""Measured against real brokers and the sandbox."""
