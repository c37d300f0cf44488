"""The model client: one protocol, its transports and its layers."""
