"""Detection of miners: rules, matching, judging. Pure: no clock, no I/O except rule files."""
