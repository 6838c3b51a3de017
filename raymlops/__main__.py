"""`python -m raymlops` is the `raymlops` command."""

from raymlops.cli import main

if __name__ == "__main__":
    main()
