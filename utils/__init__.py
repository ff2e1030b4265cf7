"""What every script shares: arguments, randomness, checkpoints, metrics, processes and runs.

Nothing here imports `models` or `datasets`; scripts hand over what is needed.
"""

import sys

if sys.platform == "win32":  # before anything asks for signals that Windows does not have
    print("error: this runs on Linux: on Windows install WSL, and run it there", file=sys.stderr)
    raise SystemExit(2)
