"""Entry point of `python -m stack`, which the shell script `./stack` runs."""

if __name__ == "__main__":
    try:
        from stack.cli import main  # takes long enough for a Ctrl-C to meet it
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    main()
