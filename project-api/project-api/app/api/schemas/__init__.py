"""What the API's own documents look like: those that are no task's payload or result."""
