"""``python -m minerwatch``."""

from minerwatch.cli.main import main

if __name__ == "__main__":
    main()
