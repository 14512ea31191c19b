"""What can be known without a server. Paths mirror the source's."""
