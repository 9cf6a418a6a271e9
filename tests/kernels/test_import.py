"""The room's door opens without torch or Triton."""

import subprocess
import sys


def test_importing_kernels_loads_neither_torch_nor_triton():
    code = "import headscope.kernels, sys; print(sorted({'torch', 'triton'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
