"""The screen of ``minerwatch top``: Textual's widgets, and threads that poll.

``minerwatch.view.screen`` computes what they show. Textual is imported when the screen opens.
"""
