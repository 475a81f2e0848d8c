"""What a miner looks like: rules, matching, judging. Pure: no clock, no I/O but rule files."""
