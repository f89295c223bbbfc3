"""The same function in a module that starts a thread, as many frameworks do. After that naq does not fork: a process is
ready for each call (standby)."""

import threading

from functions import count_words

__all__ = ["count_words"]

threading.Thread(target=threading.Event().wait, daemon=True).start()
