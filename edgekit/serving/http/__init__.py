"""HTTP: OpenAI's routes, a websocket for sound, what watches a service, and one page. See ``neighbour.Http``."""
