"""__main__.py - what `python3 -m pyuring` runs, under whatever name the package was vendored.

Nothing happens in here; read next: cli.py.
"""
import os
import sys

if __name__ == "__main__":
    try:
        from .cli import main
    except KeyboardInterrupt:           # so early that there is nothing to end yet
        os._exit(130)
    sys.exit(main())
