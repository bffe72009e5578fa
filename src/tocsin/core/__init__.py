"""The nouns, protocols and errors of Tocsin. Pure: no I/O, no framework."""
