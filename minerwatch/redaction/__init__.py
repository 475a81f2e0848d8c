"""Takes passwords, tokens and keys out of command lines and other text."""
