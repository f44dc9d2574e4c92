"""``python -m cowfs_cli``."""

from cowfs_cli.main import main

if __name__ == "__main__":
    main()
