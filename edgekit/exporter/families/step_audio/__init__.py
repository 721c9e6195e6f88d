"""Step-Audio 2 and its kin: text model, ears, flow matching and vocoder."""
