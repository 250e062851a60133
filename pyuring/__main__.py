"""__main__.py - what `python3 -m pyuring` runs, under whatever name the package was vendored.

Nothing happens in here; read next: cli.py.
"""
import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
