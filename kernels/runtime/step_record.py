"""What a step of a lowered program is to native code: a record as long as a cache line."""

from __future__ import annotations

import numpy as np

FIELDS = (
    "function",  # address of void (arguments, first item, last item, scratch)
    "arguments",  # address of 8 bytes a parameter
    "items",  # for every `rows_of_items` rows, or what is left of them
    "rows_of_items",
    "n_rows",  # address of their number in this pass
    "barrier",  # 1 if it needs what steps since the last barrier make
    "fewest",  # items that a thread takes at a time, and the most
    "most",
)
STEP_RECORD = np.dtype([(name, np.uint64) for name in FIELDS])
RECORD_BYTES = STEP_RECORD.itemsize
AT = {name: 8 * i for i, name in enumerate(FIELDS)}  # byte offsets into it
