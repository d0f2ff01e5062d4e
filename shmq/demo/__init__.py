"""What ``shmq demo`` and ``shmq bench`` do: a job on real input, and a short measurement, both beside ``multiprocessing.Queue``.

They use the public names of :mod:`shmq` only, as any other program would. The work (``files``, ``transports``,
``job``, ``costs``, ``measure``) is apart from what shows it (``comparison``, ``progress``, ``results``), since the processes that
they start shall import neither click nor rich.
"""
