"""`python -m phichat`."""

from phichat.cli import main

if __name__ == "__main__":
    main()
