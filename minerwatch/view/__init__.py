"""The socket's types as text for people. No input or output."""
