"""Programs that the agent starts; nothing imports them."""
