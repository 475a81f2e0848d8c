"""Pages for a browser: plain HTML without scripts, from the types of the snapshot. No I/O."""
