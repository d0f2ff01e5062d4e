"""``python -m shmq``: the command ``shmq``, for where the script is not on the PATH."""

from shmq.cli import main

if __name__ == "__main__":
    main()
