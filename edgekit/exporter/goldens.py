def store_goldens(*a):
    return {}
