"""Payloads: how objects become bytes, and bytes become objects."""
