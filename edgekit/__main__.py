"""`python -m edgekit` is the command line."""

from edgekit.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
