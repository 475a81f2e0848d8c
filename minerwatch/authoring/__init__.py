"""Tools for rule authors: lint, rule tests, explanations. The agent never imports them."""
