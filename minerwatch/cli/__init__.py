"""The commands; thin, the work is done below."""
