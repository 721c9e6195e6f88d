"""Export edgekit-tiny to INT8 and print what the census and the quality gate found.

python export/edgekit-tiny/export-int8.py [BUNDLE]
"""

import sys
from collections import Counter

from edgekit_tiny import checkpoint

from edgekit.exporter.export import ExportOptions, export

output = sys.argv[1] if len(sys.argv) > 1 else "bundles/edgekit-tiny-int8"
manifest = export(checkpoint(), output, ExportOptions(recipe="edgekit-tiny", overwrite=True))

weights: Counter[str] = Counter()
for row in manifest.census:
    weights[row.dtype] += row.bytes
for dtype, size in weights.most_common():
    print(f"{dtype:12} {size / 1e6:8.2f} MB")
print("levels, words changed against float:", manifest.verification["levels"])
