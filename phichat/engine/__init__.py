"""Engines: what turns messages into a stream of events."""
