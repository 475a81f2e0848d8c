"""The daemon: one tick after the other, from what the kernel says to what is published."""
