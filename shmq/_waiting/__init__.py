"""Waiting for messages: bells, descriptors, event loops, the renewal of leases."""
