"""Launching: how many processes, on which machines, and what fits there."""
