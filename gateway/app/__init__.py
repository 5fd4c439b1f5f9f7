"""Puts the parts together, and starts, drains and closes them."""
