"""HTTP: endpoints, their dependencies, and the one table that turns errors into responses."""
