"""Tools for testing code that uses Roost, and Roost's own drivers.

``roost.testing.conformance`` needs pytest; nothing else here imports it.
"""
