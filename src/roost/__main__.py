"""``python -m roost`` is the command ``roost``."""

from roost import _interrupt

if __name__ == "__main__":
    _interrupt.exit_on_sigint()
    from roost.cli import main

    main()
