"""``python -m app --port 8000``: see `app.server`."""

from app.server import main

if __name__ == "__main__":
    main()
