"""Culling, carried out: what ``minerwatch.cull`` decides is done here, with evidence and a record.

``switch`` is what the agent knows of it; the rest is imported only once culling is switched on.
"""
