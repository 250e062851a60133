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
    code = main()
    if code == 130:
        # Threads of a replay may still be at work, and those that outlive the interpreter crash some
        # before 3.12 (seen on 3.9 and 3.10, -X dev). All that there was to say is said.
        os._exit(code)
    sys.exit(code)
