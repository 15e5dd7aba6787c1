"""How Alembic reaches the store: through the connection it is given, in that connection's transaction."""

from alembic import context

from wakeloop.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
