"""What is written from something else: a page, a schema, manifests. ``make generate`` does it."""
