"""The store: one schema and one set of statements over SQLite and PostgreSQL. No SQL stands outside this package."""
