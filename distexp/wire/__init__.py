"""Messages between manager, workers and people: types, framing, server, client, authentication."""
