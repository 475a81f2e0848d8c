"""Rules to matches."""
