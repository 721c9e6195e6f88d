"""Run a bundle under load and reduce what its traces say to a Profile.

Three kinds of passes: at real time with the bundle's gate (latency), back to back with the gate off (cost, for every
compute level), and fresh processes (import, load, memory). Knows no files but the bundle and the clips it is given.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Manifest, hash_file, open_bundle
from edgekit.bundle.manifest import MANIFEST
from edgekit.bundle.trust import Trust
from edgekit.errors import UsageError
from edgekit.limits import available_cores
from edgekit.profiler.clips import Clip, faint_noise, read_clip
from edgekit.profiler.device import describe_device, describe_software
from edgekit.profiler.fresh import Job, measure_fresh, measure_import
from edgekit.profiler.pacing import BLOCK_MS, Pacer
from edgekit.profiler.passes import Latency, Pass, latency_of, run_pass, timeline_of
from edgekit.profiler.profiles import (
    DEFINITIONS,
    SCHEMA_VERSION,
    BundleFacts,
    Metric,
    Pace,
    Profile,
    Settings,
    Timeline,
    summarise,
)
from edgekit.runtime.answer import driver_of
from edgekit.runtime.assemble import writes_partials
from edgekit.runtime.model import Model, load_opened
from edgekit.runtime.policy import SKIP
from edgekit.spans import ADAPTER, DECODE, DRAFT, ENCODER, PREFILL

Progress = Callable[[int, int, str], None]
"""Called with the steps done, all steps, and what comes next."""

_SILENCE_S = 10.0
_SPARE_SILENCE_S = 0.5  # beyond the gate's own wait, so that it always closes before the input ends
_COMPONENTS = {ENCODER: "encoder_ms", ADAPTER: "adapter_ms", PREFILL: "prefill_ms", DECODE: "decode_ms"}
_FEW_SAMPLES = 100


def profile_bundle(
    bundle_path: str | os.PathLike[str],
    clips: Sequence[str | os.PathLike[str]],
    *,
    paced: bool = True,
    repeat: int = 5,
    warmup: int = 1,
    level: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    trust: Trust | None = None,
    **loading: Any,  # noqa: ANN401 - of edgekit.load
) -> Profile:
    """Measure a bundle on speech clips (paths of audio files) and return the Profile.

    paced: latency passes take as long as the clips last; False pushes them as fast as they are taken, which shows no
    backlog and no waiting. level: pin one compute level; by default latency is measured at the most capable one, cost
    at all. trust: keys of which one must have signed it. loading: what else ``edgekit.load`` takes. Raises what
    ``edgekit.load`` and ``read_clip`` do, UsageError, and ProfileError where a clip shows no utterance.
    """
    if not clips:
        raise UsageError("clips: none given, at least one recording of speech is needed; name an audio file")
    if repeat < 1 or warmup < 0:
        raise UsageError(f"repeat {repeat}, warmup {warmup}: at least 1 and 0 are needed; ask for more")
    used_threads = available_cores() if threads is None else threads
    bundle = open_bundle(bundle_path, trust=trust)
    model = load_opened(bundle, threads=used_threads, speak=bundle.manifest.speech is not None, **loading)
    names = [offered.name for offered in model.manifest.levels if offered.name != SKIP]
    if level is not None and level not in names:
        raise UsageError(f"level: '{level}' is not in this bundle; choose one of: {', '.join(names)}")
    bench = Bench(
        model=model,
        clips=[read_clip(clip, model.manifest.front_end.sample_rate_hz) for clip in clips],
        pacer=Pacer(time.perf_counter, paced=paced),
        level=level or names[-1],
        levels=[level] if level else names,
        repeat=repeat,
        progress=progress or (lambda _done, _total, _text: None),
    )
    bench.warm_up(warmup)
    for index in range(repeat):
        bench.latency_round(index)
        bench.cost_round(index)
        bench.silence_round()
        bench.fresh_round(used_threads, loading.get("plans"))
    return Profile(
        schema_version=SCHEMA_VERSION,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        device=describe_device(),
        software=describe_software(),
        bundle=bundle_facts(model),
        settings=Settings(
            threads=used_threads,
            warmup=warmup,
            repeat=repeat,
            paced=paced,
            block_ms=BLOCK_MS,
            level=bench.level,
            silence_after_s=bench.silence_after_s,
            clips=tuple(clip.facts() for clip in bench.clips),
            backend=model.backend,
            fallback=model.fallback,
            context_tokens=model.context_tokens,
            engines={name: dict(engine.counts) for name, engine in model.engines.items() if engine.counts},
        ),
        metrics=bench.metrics(),
        definitions={metric: DEFINITIONS[metric].text for metric in sorted({name for name, *_ in bench.samples})},
        timeline=bench.timeline,
        notes=bench.notes(),
    )


def bundle_facts(model: Model) -> BundleFacts:
    """Return what a Profile says about an opened bundle."""
    manifest = model.manifest
    chunk_samples = manifest.grid.chunk_frames * manifest.front_end.hop_samples
    verified = manifest.verification
    waiver: dict[str, str] = verified.get("waiver", {})
    return BundleFacts(
        name=manifest.name,
        family=manifest.family,
        precision={key: str(value) for key, value in sorted(manifest.precision.items())},
        manifest_sha256=hash_file(model.bundle.folder / MANIFEST),
        grid=manifest.grid.mode,
        chunk_ms=round(1000 * chunk_samples / manifest.front_end.sample_rate_hz),
        gate=manifest.gate.kind,
        bytes=sum(entry.bytes for entry in manifest.files),
        dummy_seed=manifest.dummy_seed,
        dialect=manifest.dialect,
        words_changed=dict(verified.get("levels", {})),
        twin=str(verified.get("twin", "")),
        waiver=f"{waiver['for']}; the reason given: {waiver['reason']}" if waiver else "",
        takes_prompt="prompt" in driver_of(manifest.protocol).takes,
    )


def closing_silence_s(manifest: Manifest) -> float:
    """Return the silence to append so that the bundle's gate closes by itself; none where it is off."""
    return 0.0 if manifest.gate.kind == "off" else manifest.gate.min_silence_ms / 1000 + _SPARE_SILENCE_S


@dataclass(slots=True)
class Bench:
    """The samples of a Profile in the making, one list for each name, level and pace."""

    model: Model
    clips: list[Clip]
    pacer: Pacer
    level: str
    levels: list[str]
    repeat: int
    progress: Progress
    samples: dict[tuple[str, str, Pace], list[float]] = field(default_factory=lambda: defaultdict(list))
    _timelines: list[tuple[float, Timeline]] = field(default_factory=list)
    _wordless: set[str] = field(default_factory=set)
    _speechless: set[str] = field(default_factory=set)
    _done: int = 0

    @property
    def silence_after_s(self) -> float:
        """Silence that follows every clip's speech in a latency pass."""
        return closing_silence_s(self.model.manifest)

    @property
    def timeline(self) -> Timeline | None:
        """The first clip's pass with the median time to the first token; the earlier of two medians."""
        if not self._timelines:
            return None
        return sorted(self._timelines, key=lambda item: item[0])[(len(self._timelines) - 1) // 2][1]

    def metrics(self) -> tuple[Metric, ...]:
        """Return every figure, in the order of the definitions."""
        order = {name: index for index, name in enumerate(DEFINITIONS)}
        ranks = {name: index for index, name in enumerate(self.levels)}
        keys = sorted(self.samples, key=lambda key: (order[key[0]], key[2], ranks.get(key[1], -1)))
        return tuple(
            summarise(name, self.samples[name, level, pace], level=level, pace=pace) for name, level, pace in keys
        )

    def notes(self) -> tuple[str, ...]:
        """Return what a reader must know beside the figures."""
        notes = []
        first = self.samples.get(("first_token_ms", self.level, self._latency_pace), [])
        if 0 < len(first) < _FEW_SAMPLES:
            notes.append(
                f"Latency has {len(first)} samples: its p99 lies between the two highest of them; trust the median "
                "and p90."
            )
        if not self.pacer.paced:
            notes.append("Input was not paced at real time: latencies hold no backlog and a warm cache.")
        notes += [f"{name}: no words were found in it; it is left out of latency." for name in sorted(self._wordless)]
        notes += [f"{name}: {note}." for name, engine in self.model.engines.items() for note in engine.notes]
        notes += [f"{name}: its answer was not spoken; it is left out of speech." for name in sorted(self._speechless)]
        return tuple(notes)

    def warm_up(self, passes: int) -> None:
        """Run the first clip without measuring, at every level."""
        for _ in range(passes):
            for level in self.levels:
                self._step("warm-up")
                run_pass(self.model, self.clips[0].speech(), self._unpaced, level=level, speak=self._speaks)

    def latency_round(self, index: int) -> None:
        """Let every clip pass once at the settings' pace, the bundle's gate on."""
        for clip in self.clips:
            self._step(f"latency {index + 1}/{self.repeat}: {clip.name}")
            done = run_pass(self.model, clip.speech(self.silence_after_s), self.pacer, level=self.level)
            self._take_components(done, self.level, self._latency_pace)
            took = latency_of(done, clip.name, clip.speech_end_s)
            if not done.answers[-1].text:
                self._wordless.add(clip.name)
                continue
            self._take_latency(took)
            if self.pacer.paced:
                self._add("work_while_talking", self._latency_pace, done.done_before(ENCODER, clip.speech_end_s))
                if clip is self.clips[0]:
                    self._timelines.append((took.first_token_ms, timeline_of(done, clip.name, clip.speech_end_s)))
            if self._drafts:
                self._take_drafts(clip)
            if self._speaks:
                self._take_speech(clip)

    def cost_round(self, index: int) -> None:
        """Let every clip pass once at every level as fast as it is taken, gate off."""
        for level in self.levels:
            self._step(f"cost {index + 1}/{self.repeat}: {level}")
            for clip in self.clips:
                done = run_pass(self.model, clip.samples, self._unpaced, gate="off", level=level)
                self._take_components(done, level, "back to back")
                self.samples["real_time_factor", level, "back to back"].append(done.work_s / done.audio_s)
                if level == self.level:
                    self._add("encoder_frames_ratio", "back to back", done.frames_computed / done.frames_received)
                if level == self.level and self._drafts:
                    done = run_pass(self.model, clip.samples, self._unpaced, gate="off", level=level, partials=True)
                    self._add("drafted_real_time_factor", "back to back", done.work_s / done.audio_s)

    def silence_round(self) -> None:
        """Push faint noise with the bundle's gate on."""
        self._step("silence")
        done = run_pass(self.model, faint_noise(_SILENCE_S, self._rate_hz), self._unpaced, level=self.level)
        self._add("silence_cost", "back to back", done.work_s / done.audio_s)

    def fresh_round(self, threads: int, plans: str | os.PathLike[str] | None = None) -> None:
        """Import, load and run in processes of their own."""
        self._step("fresh process")
        self._add("import_ms", "fresh process", measure_import())
        longest = max(self.clips, key=lambda clip: len(clip.samples))
        signer = self.model.bundle.signer
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "samples.npy")
            np.save(path, longest.samples)
            took = measure_fresh(
                Job(
                    str(self.model.bundle.folder), str(path), threads, None, self.level, self.model.backend,
                    self.model.context_tokens, str(plans) if plans else None,
                    str(signer.path) if signer else None,
                )
            )  # fmt: skip
        self._add("load_s", "fresh process", took.load_s)
        self._add("peak_memory_mib", "fresh process", took.peak_mib)

    @property
    def _drafts(self) -> bool:
        """Whether the bundle writes drafts."""
        return writes_partials(self.model.manifest)

    @property
    def _rate_hz(self) -> int:
        return self.model.manifest.front_end.sample_rate_hz

    @property
    def _speaks(self) -> bool:
        return self.model.manifest.speech is not None

    @property
    def _unpaced(self) -> Pacer:
        return Pacer(self.pacer.clock, self.pacer.sleep, paced=False)

    @property
    def _latency_pace(self) -> Pace:
        return "real time" if self.pacer.paced else "back to back"

    def _take_latency(self, took: Latency) -> None:
        pace = self._latency_pace
        self._add("decision_ms", pace, took.decision_ms)
        for name, value in (("first_token", took.first_token_ms), ("final_text", took.final_text_ms)):
            self._add(f"{name}_ms", pace, value)
            self._add(f"{name}_with_decision_ms", pace, value + took.decision_ms)

    def _take_drafts(self, clip: Clip) -> None:
        """Let a clip pass once more, with drafts of its text while it is spoken."""
        speech, pace = clip.speech(self.silence_after_s), self._latency_pace
        done = run_pass(self.model, speech, self.pacer, level=self.level, partials=True)
        self._add("drafted_final_text_ms", pace, latency_of(done, clip.name, clip.speech_end_s).final_text_ms)
        figures = {"draft_ms": done.milliseconds(DRAFT), "drafted": list(done.drafted)}
        if self.pacer.paced:
            figures["first_draft_ms"] = [wait_s * 1000 for wait_s in done.first_drafts_s]
        for name, values in figures.items():
            for value in values:
                self._add(name, pace, value)

    def _take_speech(self, clip: Clip) -> None:
        """Let a clip pass once more, its answer spoken."""
        done = run_pass(self.model, clip.speech(self.silence_after_s), self.pacer, level=self.level, speak=True)
        took, pace = latency_of(done, clip.name, clip.speech_end_s), self._latency_pace
        if took.first_audio_ms is None:
            self._speechless.add(clip.name)
            return
        self._add("first_audio_ms", pace, took.first_audio_ms)
        self._add("first_audio_with_decision_ms", pace, took.first_audio_ms + took.decision_ms)
        self._add("speech_real_time_factor", pace, took.speech_real_time_factor)
        self._add("host_overhead", pace, done.host_overhead())

    def _take_components(self, done: Pass, level: str, pace: Pace) -> None:
        for span, name in _COMPONENTS.items():
            if found := done.milliseconds(span):
                self.samples[name, level, pace].extend(found)

    def _add(self, name: str, pace: Pace, value: float | None) -> None:
        if value is not None:
            self.samples[name, self.level, pace].append(value)

    def _step(self, text: str) -> None:
        total = self.repeat * (len(self.clips) + len(self.levels) + 2)
        self.progress(min(self._done, total), total, text)
        self._done += text != "warm-up"
