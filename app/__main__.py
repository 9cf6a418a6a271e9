"""`python -m headscope.app`, which torchrun can start."""

from headscope.app.cli import main

main()
