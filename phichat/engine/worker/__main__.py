"""Entry point of the engine process: `python -m phichat.engine.worker`."""

from phichat.engine.worker.server import main

if __name__ == "__main__":
    main()
