"""What every test stands on: the same terminal and the same Python, whatever the machine's environment says."""

import os

# An unbuffered standard output hides what is lost with a buffer; the others change what a terminal is shown.
for exported in ("PYTHONUNBUFFERED", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLORFGBG"):
    os.environ.pop(exported, None)
os.environ.pop("GPT_TUI_HOME", None)  # it would move the cache
os.environ["TERM"] = "xterm-256color"
