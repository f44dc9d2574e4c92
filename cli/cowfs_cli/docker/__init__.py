"""Docker's volume plugin protocol, on top of the client."""
