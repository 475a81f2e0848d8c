"""The screen of ``minerwatch top`` as rows, cells and lines, before a terminal draws them.

Polls become presentations (``presentation``): rows of containers, processes or nodes, their columns
and cells, the lines above and below them, and pages of text.
"""
