"""References in torch: transformers' own modules, called on EdgeKit's grid.

Parity tests and `edgekit verify --reference` compare with them; nothing else in EdgeKit imports torch. They need
`edgekit-audio[reference]`.
"""
