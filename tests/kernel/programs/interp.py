"""What an interpreter does: many small objects, some large ones, and back again."""

import hashlib
import json
import re

table = {i: [str(j) * 5 for j in range(40)] for i in range(400)}
text = json.dumps(table)
again = json.loads(text)
print(len(text), hashlib.sha256(text.encode()).hexdigest()[:8])
buffers = [bytearray(300_000) for _ in range(12)]
del buffers[::2]
numbers = re.findall(r"[0-9]+", text[:100_000])
del table, again
