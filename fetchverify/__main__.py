"""`python -m fetchverify`."""

from fetchverify.cli import main

if __name__ == "__main__":
    main()
