"""Export a CTranslate2 Whisper folder (as faster-whisper uses them) to INT8.

python export/whisper/export-ctranslate2.py FOLDER [BUNDLE]
"""

import sys

from edgekit.exporter.export import ExportOptions, export

if len(sys.argv) < 2:
    sys.exit("usage: export-ctranslate2.py FOLDER [BUNDLE]")
output = sys.argv[2] if len(sys.argv) > 2 else "bundles/whisper-int8"
manifest = export(sys.argv[1], output, ExportOptions(recipe="whisper", precision="int8", overwrite=True))
print(f"{manifest.name}: {sum(entry.bytes for entry in manifest.files) / 1e6:.1f} MB")
print("distance to float:", manifest.verification["measured"])
