"""Observation: what can be seen of a segment from outside, without a port."""
