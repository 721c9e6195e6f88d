"""Wyoming, the protocol by which Home Assistant speaks to what hears for it: events of one line of JSON and sound.

neighbour.py   who listens at a port and lets clients in; read this first
connection.py  one client: its events in, what was heard out
framing.py     bytes to events, every length looked at first
messages.py    what the data of an event must be
about.py       what a bundle offers, as ``info`` says it, and its languages
texts.py       the texts of a recording as chunks of one transcript
admission.py   from where clients may come
announcement.py  zeroconf, by which Home Assistant discovers it
"""
