"""`python -m vlrft` is the `vlrft` command."""

from vlrft.cli import main

if __name__ == "__main__":
    main()
