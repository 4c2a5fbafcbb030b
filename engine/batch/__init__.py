"""Requests that nobody waits for: files of them, on one machine or a cluster, and tables."""
