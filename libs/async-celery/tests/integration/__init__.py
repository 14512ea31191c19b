"""What only real RabbitMQ, Redis and a real worker can show. Run by `./stack test`."""
