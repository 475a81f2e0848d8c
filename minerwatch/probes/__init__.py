"""Deep looks at suspects: what is too costly to ask of every process."""
