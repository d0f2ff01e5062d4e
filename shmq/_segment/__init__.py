"""Segments: configuration, files, life and listing of named shared memory."""
