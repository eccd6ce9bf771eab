"""The server: clients, transfers, and everything that arrives."""
