"""Input of every kind that nobody should send, and what it may do: fail in the documented way."""
