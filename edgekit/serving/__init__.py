"""What lives with a model for months: one server core, a microphone, and the protocols of its neighbours."""
