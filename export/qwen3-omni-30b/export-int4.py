"""Export a Qwen3-Omni checkpoint with its thinker in INT4 and what speaks in INT8.

python export/qwen3-omni-30b/export-int4.py CHECKPOINT [BUNDLE]
"""

import sys

from edgekit.exporter.export import ExportOptions, export

if len(sys.argv) < 2:
    sys.exit("usage: export-int4.py CHECKPOINT [BUNDLE [REASON]]")
output = sys.argv[2] if len(sys.argv) > 2 else "bundles/qwen3-omni-30b-int4"
reason = sys.argv[3] if len(sys.argv) > 3 else None
manifest = export(sys.argv[1], output, ExportOptions(precision="int4", accept_loss=reason, overwrite=True))
print(f"{manifest.name}: {sum(entry.bytes for entry in manifest.files) / 1e9:.2f} GB, {manifest.precision}")
