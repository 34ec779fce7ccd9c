"""Consumes webhooks, drives each assignment through VectorCare's API, and publishes what became of it."""
