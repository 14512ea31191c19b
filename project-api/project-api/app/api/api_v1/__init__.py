"""Version 1 of the API, all of it under `/v1`."""
