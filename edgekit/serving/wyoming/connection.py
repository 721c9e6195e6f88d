"""Connection: one client of Wyoming: its events in, what was heard out.

    transcribe, audio-start, audio-chunk ..., audio-stop -> transcript-start, transcript-chunk ..., transcript,
                                                            transcript-stop
    transcript (a text, for a bundle that answers)       -> handled
    synthesize (for a bundle that reads aloud)           -> audio-start, audio-chunk ..., audio-stop
    describe -> info      ping -> pong      anything that cannot be -> error

One recording at a time: the next one waits until the transcript of the one before is sent. After an error the client
may begin another recording at once; if it sends the refused one to its end instead, the connection ends there: older
releases of Home Assistant wait for a transcript or the end, and for nothing else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.error import Error
from wyoming.event import Event as Message
from wyoming.event import async_write_event
from wyoming.handle import Handled
from wyoming.ping import Pong

from edgekit.errors import EdgeKitError, RefusedError
from edgekit.reprs import quoted
from edgekit.runtime.events import Text, TextCut
from edgekit.runtime.model import Model
from edgekit.serving.reading import Reader
from edgekit.serving.served import Ended
from edgekit.serving.server import Server
from edgekit.serving.wyoming.about import answers_texts, info_of, language_option, voices_of, writes_down
from edgekit.serving.wyoming.asking import Asking, to_answer, to_read_aloud, to_write_down
from edgekit.serving.wyoming.framing import Framing
from edgekit.serving.wyoming.messages import (
    Format,
    Ping,
    Said,
    SelectProgram,
    Synthesize,
    Transcribe,
    audio_format,
    message,
)
from edgekit.serving.wyoming.speech import spoken
from edgekit.serving.wyoming.texts import Texts

_READ = 1 << 16  # bytes at a time
_OF_RECORDINGS = ("transcribe", "audio-start", "audio-chunk", "audio-stop")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Recording:
    """One recording of a client. ``reader``: its stream, from the first sound on; ``task``: what writes its texts."""

    asked: Transcribe
    format: Format
    reader: Reader | None = None
    task: "asyncio.Task[None] | None" = None
    whole: bool = False  # audio-stop came


class Connection:
    """See the module. ``name``: what the log calls it.

    program: what ``info`` calls the programs, the bundle's name if empty. languages: see ``about.languages``.
    """

    def __init__(
        self,
        server: Server,
        incoming: asyncio.StreamReader,
        outgoing: asyncio.StreamWriter,
        *,
        name: str,
        program: str = "",
        languages: tuple[str, ...] = (),
    ) -> None:
        self._server, self._limits = server, server.limits
        self._incoming, self._outgoing = incoming, outgoing
        self._name, self._program, self._languages = name, program, languages
        self._framing = Framing(server.limits)
        self._writing = asyncio.Lock()
        self._takes: dict[str, Callable[[Message], Awaitable[None]]] = {
            "describe": self._describe, "ping": self._pong, "select-program": self._select,
            "transcribe": self._transcribe, "audio-start": self._begin, "audio-chunk": self._hear,
            "audio-stop": self._stop, "transcript": self._reply, "synthesize": self._read_aloud,
        }  # fmt: skip
        self._asked: Transcribe | None = Transcribe()  # of the next recording; None: what was asked for was refused
        self._recording: Recording | None = None  # whose sound comes
        self._answer: asyncio.Task[None] | None = None  # what is on its way, of the last one
        self._refused = False  # the sound that comes is of a recording that was refused
        self._closing = False

    @property
    def working(self) -> bool:
        """Whether a recording or an answer is under way."""
        return self._recording is not None or (self._answer is not None and not self._answer.done())

    async def run(self) -> None:
        """Serve the client until it leaves, is refused for good, or cannot be reached."""
        try:
            while not self._closing and (event := await self._next()) is not None:
                await self._guarded(event)
            if self._recording is not None:
                await self._refuse("connection: it ended within a recording, without audio-stop", "order")
            elif self._answer is not None:  # a client may close its half after audio-stop and wait
                await self._answer
        except RefusedError as error:
            with suppress(OSError, asyncio.TimeoutError):
                await self._refuse(error, error.reason)
        except (OSError, asyncio.TimeoutError) as error:
            _log.info("%s: the client is gone, or does not read (%s)", self._name, type(error).__name__)
            self._outgoing.transport.abort()
        except asyncio.CancelledError:
            self._outgoing.transport.abort()
            raise
        finally:
            await self._abandon()
            await self._close()

    async def _next(self) -> Message | None:
        """Return the next event, None at the end. It begins within ``idle_s`` and is whole within that time again."""
        loop, idle_s = asyncio.get_running_loop(), self._limits.idle_s
        since = loop.time()
        while (event := self._framing.take()) is None:
            between = self._framing.between
            try:
                data = await asyncio.wait_for(self._incoming.read(_READ), max(0.0, since + idle_s - loop.time()))
            except asyncio.TimeoutError:
                if between and self.working:
                    since = loop.time()
                    continue
                what = "nothing" if between else "no whole event"
                raise RefusedError("idle", f"connection: {what} for {idle_s:g} s; connect again") from None
            if not data:
                if not between:
                    raise RefusedError("length", "connection: it ended within an event")
                return None
            if between:
                since = loop.time()
            self._framing.put(data)
        return event

    async def _guarded(self, event: Message) -> None:
        """Do what an event asks for, or say why not; the connection goes on."""
        try:
            if (take := self._takes.get(event.type)) is not None:
                await take(event)
            else:  # to be passed over, says the protocol
                _log.debug("%s: an event that is not known here", self._name)
        except EdgeKitError as error:
            if event.type == "transcribe":
                self._asked = None
            if event.type in _OF_RECORDINGS:
                await self._drop()
            await self._refuse(error, error.reason if isinstance(error, RefusedError) else "usage")

    async def _refuse(self, why: object, reason: str) -> None:
        _log.info("%s: %s", self._name, why)
        await self._send(Error(text=str(why), code=reason).event())

    async def _describe(self, _event: Message) -> None:
        if self._server.model is None:
            self._closing = True  # Home Assistant then asks again, after 2 s, and does not note that there is nothing
        model = self._model
        await self._send(info_of(model.manifest, self._named, self._languages, voices_of(model)).event())

    async def _pong(self, event: Message) -> None:
        await self._send(Pong(text=message(Ping, event.type, event.data).text).event())

    async def _select(self, event: Message) -> None:
        asked = message(SelectProgram, event.type, event.data)
        if asked.name != self._named:
            raise RefusedError("program", f"select-program: {quoted(asked.name)}, there is '{self._named}' alone")

    @property
    def _model(self) -> Model:
        return self._server.loaded

    @property
    def _named(self) -> str:
        return self._program or self._model.manifest.name

    # A recording ----------------------------------------------------------------------------------------------------

    async def _transcribe(self, event: Message) -> None:
        asked = message(Transcribe, event.type, event.data)
        manifest = self._model.manifest
        if self._recording is not None and self._recording.reader is not None:
            raise RefusedError("order", "transcribe: a recording is under way; send audio-stop first")
        if not writes_down(manifest):
            raise RefusedError("asr", f"transcribe: {manifest.name} answers and writes nothing down; export another")
        if asked.name not in {None, "", manifest.name, self._program}:
            raise RefusedError("model", f"transcribe: {quoted(asked.name)}, there is '{manifest.name}' alone")
        language_option(manifest, asked.language, self._languages)
        self._asked, self._refused = asked, False
        if self._recording is not None:
            self._recording.asked = asked

    async def _begin(self, event: Message) -> None:
        if self._recording is not None:
            raise RefusedError("order", "audio-start: a recording is under way; send audio-stop first")
        self._refused = self._asked is None
        if self._asked is not None:
            self._recording = Recording(self._asked, audio_format(event.type, event.data))

    async def _hear(self, event: Message) -> None:
        if self._recording is None and not self._refused:
            await self._begin(event)
        recording = self._recording
        if recording is None:
            return
        given = audio_format(event.type, event.data)
        if given != recording.format:
            raise RefusedError("format", "audio-chunk: another format than the recording began with; begin another one")
        samples = given.samples(event.payload or b"")
        reader = await self._opened(recording)
        for start in range(0, len(samples), given.rate):  # a second at a time: a piece may be of many minutes
            await reader.push(samples[start : start + given.rate])

    async def _stop(self, _event: Message) -> None:
        recording = self._recording
        if self._refused:
            self._closing = True  # see the module
        elif recording is None:
            raise RefusedError("order", "audio-stop: no recording is under way; send audio-start first")
        else:
            reader = await self._opened(recording)
            recording.whole = True
            reader.served.finish()
            self._recording, self._asked = None, Transcribe()

    async def _opened(self, recording: Recording) -> Reader:
        """Return the stream of a recording, opened now if it is not open yet."""
        if recording.reader is None:
            await self._answered()
            manifest = self._model.manifest
            language = language_option(manifest, recording.asked.language, self._languages)
            asking = to_write_down(manifest, self._server.defaults, recording.format, language)
            recording.reader = reader = self._open(asking)
            recording.task = self._deliver(reader, lambda: self._write_down(recording, reader))
        return recording.reader

    def _open(self, asking: Asking) -> Reader:
        options = self._server.options(asking.own, without=asking.without)
        return Reader(self._server, options, name=self._name)

    async def _write_down(self, recording: Recording, reader: Reader) -> None:
        """Send the texts of a recording as they come, then the whole."""
        texts = Texts(committed=bool(reader.served.stream.options.partials))
        language, begun = None, False
        async for event in reader:
            if isinstance(event, TextCut):
                _log.warning("%s: words may be missing (%s)", self._name, event.reason)
            if isinstance(event, Text):
                language = event.language or language
                if chunk := texts.take(event):
                    if not begun:
                        await self._send(TranscriptStart(language=language).event())
                    begun = True
                    await self._send(TranscriptChunk(text=chunk).event())
        if await self._ended(recording, reader):
            if not begun:
                await self._send(TranscriptStart(language=language).event())
            await self._send(Transcript(text=texts.text, language=language).event())
            await self._send(TranscriptStop().event())

    async def _ended(self, recording: Recording, reader: Reader) -> bool:
        """Return whether a recording whose stream has ended has a transcript; if not, or if it is cut, say why."""
        ended = reader.ended
        assert ended is not None
        if self._recording is recording:  # more of it will come
            self._recording, self._refused = None, True
        if ended.reason == "duration":
            limit_s = self._limits.audio_s
            await self._refuse(f"recording: longer than {limit_s:g} s, what was said until then follows", ended.reason)
        elif not recording.whole or not _in_order(ended):
            await self._refuse(ended.error or f"recording: it was ended ({ended.reason}); send it again", ended.reason)
            if recording.whole:
                self._outgoing.close()  # see the module
            return False
        return True

    # A text ---------------------------------------------------------------------------------------------------------

    async def _reply(self, event: Message) -> None:
        said = message(Said, event.type, event.data)
        manifest = self._model.manifest
        if not answers_texts(manifest):
            raise RefusedError("handle", f"transcript: {manifest.name} answers no texts; send it sound")
        await self._answered()
        reader = self._open(to_answer())
        self._deliver(reader, lambda: self._write_reply(reader, said.text))

    async def _write_reply(self, reader: Reader, text: str) -> None:
        reader.served.ask(text)
        reader.served.finish()
        parts = [event.text async for event in reader if isinstance(event, Text) and event.final]
        ended = reader.ended
        assert ended is not None
        if _in_order(ended):
            await self._send(Handled(text=" ".join(part for part in parts if part)).event())
        else:
            why = ended.error or f"transcript: its answer was ended ({ended.reason}); send it again"
            await self._refuse(why, ended.reason)

    async def _read_aloud(self, event: Message) -> None:
        asked = message(Synthesize, event.type, event.data)
        model = self._model
        if not (voices := voices_of(model)):
            raise RefusedError(
                "tts", f"synthesize: {model.manifest.name} reads no text aloud word for word; choose another"
            )  # fmt: skip
        await self._answered()
        reader = self._open(to_read_aloud(voices, asked.voice))
        self._deliver(reader, lambda: self._write_speech(reader, asked.text))

    async def _write_speech(self, reader: Reader, text: str) -> None:
        reader.served.ask(text)
        reader.served.finish()
        try:
            async for event in spoken(reader, self._name):
                await self._send(event)
        except RefusedError as error:
            await self._refuse(error, error.reason)
            self._outgoing.close()  # as with recordings: who asked waits for audio-stop or the end

    # Both -----------------------------------------------------------------------------------------------------------

    async def _answered(self) -> None:
        """Wait until what is on its way is there: answers come in the order of what they answer."""
        if self._answer is not None:
            await self._answer

    def _deliver(self, reader: Reader, write: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
        """Write what a stream makes in a task of its own; whatever becomes of it, the stream is closed."""
        self._answer = task = asyncio.create_task(self._delivered(write))
        task.add_done_callback(lambda _: reader.served.close())  # also of one that was cancelled before it began
        return task

    async def _delivered(self, write: Callable[[], Awaitable[None]]) -> None:
        try:
            await write()
        except (OSError, asyncio.TimeoutError):
            self._outgoing.transport.abort()  # nobody is there, or reads; reading ends too
        except EdgeKitError as error:
            await self._refuse(error, error.reason if isinstance(error, RefusedError) else "usage")
        except Exception:  # noqa: BLE001 - a bug of ours: this client is told, the others go on
            _log.exception("%s: ended by an unexpected error", self._name)
            await self._refuse("server: internal error; see its log", "failed")
            self._outgoing.close()

    async def _drop(self) -> None:
        """Let go of the recording whose sound comes, since something of it was refused."""
        self._refused = True
        recording, self._recording = self._recording, None
        if recording is not None and recording.task is not None:
            await _cancelled(recording.task)
            self._answer = None

    async def _abandon(self) -> None:
        """End what is still under way."""
        await _cancelled(self._recording.task if self._recording else None)
        await _cancelled(self._answer)

    async def _close(self) -> None:
        """Close the connection; what was sent has some time to be read."""
        self._outgoing.close()
        try:
            await asyncio.wait_for(self._outgoing.wait_closed(), self._limits.slow_s)
        except (OSError, asyncio.TimeoutError):
            self._outgoing.transport.abort()

    async def _send(self, event: Message) -> None:
        """Write an event. Raises asyncio.TimeoutError where nobody reads, OSError where nobody is there."""
        async with self._writing:
            await asyncio.wait_for(async_write_event(event, self._outgoing), self._limits.slow_s)


async def _cancelled(task: "asyncio.Task[None] | None") -> None:
    if task is not None and not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _in_order(ended: Ended) -> bool:
    """Return whether a stream was heard to the end of what it was given."""
    return ended.reason in {"finished", "stopping"} and not ended.error
