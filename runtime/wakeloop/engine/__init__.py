"""The pure engine: a run's history and a new event in, commands out. No I/O, no store, no broker."""
