"""Observation of a running worker: its log, metrics, timeline and the record of each request."""
