"""One module per page: read the store, shape what the template shows."""
