"""The protocol of the agent's socket: types, snapshot, orders and the client."""
