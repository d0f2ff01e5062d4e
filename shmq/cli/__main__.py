"""``python -m shmq.cli``: the same as ``shmq``, for where the script is not on the PATH."""

from shmq.cli import main

if __name__ == "__main__":
    main()
