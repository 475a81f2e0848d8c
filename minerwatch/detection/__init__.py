"""Detection of abuse: rules, matching, judging. Pure: no clock, no I/O except rule files."""
