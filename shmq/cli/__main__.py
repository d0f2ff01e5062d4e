"""``python -m shmq.cli``: the same as ``python -m shmq``."""

from shmq.cli import main

if __name__ == "__main__":
    main()
