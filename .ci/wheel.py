"""Is this wheel what users should get? Prints its size. Usage: wheel.py FILE.whl"""

import re
import sys
import zipfile
from pathlib import Path

MOST = 1_000_000  # bytes; with debug information and the generated C it has two and a half times as many
ROOT = Path(__file__).parent.parent

wheel = Path(sys.argv[1])
with zipfile.ZipFile(wheel) as archive:
    there = {name for name in archive.namelist() if name.startswith("shmq/")}
    cores = [name for name in there if re.fullmatch(r"shmq/_core\..+\.so", name)]
    debug = b".debug_info" in archive.read(cores[0]) if cores else None
patterns = ("**/*.py", "*.pyi", "*.pyx", "*.pxd", "_binding/*.pxi", "py.typed", "_native/**/*.h", "_native/**/*.c")
wanted = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in (ROOT / "shmq").glob(pattern)}
faults = [
    *(f"{name} is missing" for name in sorted(wanted - there)),
    *(f"{name} should not be there" for name in sorted(there - wanted - set(cores))),
    *(["it has not one core"] if len(cores) != 1 else []),
    *(["the core carries debug information"] if debug else []),
    *([f"more than {MOST:,} bytes"] if wheel.stat().st_size > MOST else []),
]
print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {len(there)} files; {'; '.join(faults) or 'complete'}")
sys.exit(bool(faults))
