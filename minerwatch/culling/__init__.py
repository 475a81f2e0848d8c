"""Culling: decide about confirmed containers and act on them. No other package can act.

The agent imports ``service``, which imports the rest only once culling is switched on.
"""
