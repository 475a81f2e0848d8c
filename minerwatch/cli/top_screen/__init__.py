"""The screen of ``minerwatch top``.

What is shown is worked out in modules that know no terminal: ``look``, ``rows``, ``position``,
``history``, ``cells``, ``banner``, ``details``, ``page``, ``process_tree``. ``sources`` says whom
to ask, ``feed`` asks. ``app``, ``pages`` and ``widgets`` draw: only they know Textual, and they are
imported when the screen opens.
"""
