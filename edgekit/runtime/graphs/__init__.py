"""Graphs: what one may hold before a library sees it, checked without the onnx package; and onnxruntime's one door.

``check.py`` says whether a graph of a stranger may be loaded, ``library.py`` alone imports onnxruntime.
"""
