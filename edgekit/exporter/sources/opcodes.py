"""Read a pickle's opcodes and run nothing: dicts, lists, numbers and texts, and what a caller makes of the rest.

Python's own reader makes room for what a few bytes announce, hashes and prints tuples within tuples for ever, and calls
what it is told to. This one has a limit on opcodes, takes texts and whole numbers alone as keys, and calls nothing but
what its caller hands out.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

MOST_OPCODES = 1_000_000  # of some 20,000 tensors; each makes one small object at most
_LARGEST_KEY = 1 << 63
_NOTHING = frozenset(("PROTO", "FRAME"))
_VALUES: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
))  # fmt: skip
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MEMO = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_RECALL = frozenset(("GET", "BINGET", "LONG_BINGET"))


class Named(dict[Any, Any]):
    """Stands for an OrderedDict; what a module notes beside its tensors is passed over."""

    __slots__ = ()


class Allowed:
    """One of the few functions that a pickle may name."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self.call = call


class Opcodes:
    """A reader of one pickle.

    find: what a module's name stands for, an Allowed or a value. load: what a persistent id stands for.
    """

    def __init__(self, find: Callable[[str, str], object], load: Callable[[object], object]) -> None:
        self._find, self._load = find, load
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def read(self, text: bytes) -> object:
        """Return what the pickle describes. Raises any Exception for one that is damaged or holds another opcode."""
        for count, (code, argument, _) in enumerate(pickletools.genops(text)):
            if count > MOST_OPCODES:
                raise ValueError(f"more than {MOST_OPCODES} opcodes")
            if code.name == "STOP":
                return self._stack.pop()
            if code.name in _MEMO:
                place = len(self._memo) if code.name == "MEMOIZE" else int(argument)  # type: ignore[arg-type]
                if place > len(text):
                    raise ValueError(f"memo {place}")
                self._memo[place] = self._stack[-1]
            elif code.name not in _NOTHING:
                self._do(code.name, argument)
        raise ValueError("no end")

    def _do(self, name: str, argument: Any) -> None:  # noqa: ANN401 - of any type
        stack = self._stack
        if name in _VALUES:
            stack.append(_VALUES[name])
        elif name in _ARGUMENTS:
            stack.append(argument)
        elif name in _TUPLES:
            self._last(_TUPLES[name])
        elif name in _RECALL:
            stack.append(self._memo[int(argument)])
        else:
            getattr(self, f"_{name.lower()}", self._unknown)(name, argument)

    def _unknown(self, name: str, _argument: object) -> None:
        raise ValueError(f"opcode {name}")

    def _last(self, count: int) -> None:
        if count > len(self._stack):
            raise ValueError("a tuple of what is not there")
        start = len(self._stack) - count
        self._stack[start:] = [tuple(self._stack[start:])]

    def _marked(self) -> list[Any]:
        """Return what lies above the last mark, and take both away."""
        found, self._stack = self._stack, self._below.pop()
        return found

    def _mark(self, *_: object) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop(self, *_: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _pop_mark(self, *_: object) -> None:
        self._marked()

    def _dup(self, *_: object) -> None:
        self._stack.append(self._stack[-1])

    def _empty_list(self, *_: object) -> None:
        self._stack.append([])

    def _list(self, *_: object) -> None:
        found = self._marked()
        self._stack.append(found)

    def _append(self, *_: object) -> None:
        item = self._stack.pop()
        self._top(list).append(item)

    def _appends(self, *_: object) -> None:
        items = self._marked()
        self._top(list).extend(items)

    def _tuple(self, *_: object) -> None:
        found = tuple(self._marked())
        self._stack.append(found)

    def _empty_dict(self, *_: object) -> None:
        self._stack.append({})

    def _dict(self, *_: object) -> None:
        items = self._marked()
        self._stack.append({})
        self._fill(items)

    def _setitem(self, *_: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill([key, value])

    def _setitems(self, *_: object) -> None:
        self._fill(self._marked())

    def _fill(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str and not (type(key) is int and -_LARGEST_KEY <= key < _LARGEST_KEY):
                raise TypeError(f"a key that is a {type(key).__name__}, neither a text nor a whole number")
            target[key] = value

    def _global(self, _name: str, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._find(module, name))

    def _stack_global(self, *_: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a function that is named by no text")
        self._stack.append(self._find(module, name))

    def _reduce(self, *_: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Allowed) or not isinstance(arguments, tuple):
            raise TypeError("a call of no function")
        self._stack.append(function.call(*arguments))

    def _build(self, *_: object) -> None:
        self._stack.pop()
        self._top(Named)

    def _binpersid(self, *_: object) -> None:
        self._stack.append(self._load(self._stack.pop()))

    def _top(self, kind: type[Any]) -> Any:  # noqa: ANN401 - of that kind
        if not isinstance(self._stack[-1], kind):
            raise TypeError(f"a {type(self._stack[-1]).__name__} in place of a {kind.__name__}")
        return self._stack[-1]
