"""The webhook endpoint: verify, make durable, answer."""
