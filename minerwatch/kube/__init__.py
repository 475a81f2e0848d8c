"""What the cluster says, and what is asked of it."""
