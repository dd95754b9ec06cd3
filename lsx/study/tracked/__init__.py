"""MLflow: runs, and the outbox through which they are told."""
