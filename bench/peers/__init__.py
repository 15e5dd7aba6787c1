"""The peers' sides, each a process of its own in the peers' environment: they import nothing of wakeloop."""
