"""Hostile bytes for every parser of what comes from outside; `make fuzz` runs it for long.

``targets`` says what is fuzzed, ``corpus`` keeps what was worth keeping, ``mutation`` makes more of
it, ``campaign`` looks for what breaks, and test_fuzz.py does a little of that in every test run.
"""
