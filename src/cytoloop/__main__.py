"""`python -m cytoloop`: see `cytoloop.cli`."""

import sys


def main() -> None:
    """Run the command line; the exit code is 0 only when all went well."""
    from cytoloop.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
