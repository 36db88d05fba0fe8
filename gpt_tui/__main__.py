"""python -m gpt_tui: the command line, for a machine where the script is not on the path."""

from gpt_tui.cli import main

if __name__ == "__main__":
    main()
