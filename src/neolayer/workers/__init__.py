"""Long-running processes that `up` supervises.

What a process loads lives as long as it does: the collector would search it in vain, again and
again, while it loads. It begins with the work, and passes over what is there by then (`process`).
"""

import gc

gc.disable()
