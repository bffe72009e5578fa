"""The in-process front door: the same policies and the same store, without a network hop."""
