"""Closed loop: a car that is driven by a plan through the synthetic world, what it did as plain arrays, and its scores."""
