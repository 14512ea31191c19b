"""What every other room may use: settings, logging, the request's context, the shutdown signal."""
