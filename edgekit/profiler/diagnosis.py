"""Say in plain language what a Profile's figures mean, and what to change. Rules only; nothing is measured here."""

from collections.abc import Iterator

from edgekit.profiler.markdown import number
from edgekit.profiler.profiles import Metric, Profile

_SLOW = 0.7  # of real time: beyond it one busy neighbour makes a backlog
_MOSTLY = 0.6
_WIDE = 3.0
_ENOUGH = 30
_LEVEL_GAIN = 1.15  # below it a difference is a tie on shared cores
_LITTLE = 0.05
_ALIKE = ("encoder_ms", "adapter_ms", "decode_ms", "import_ms", "load_s")  # the same work each time


def diagnose(profile: Profile) -> tuple[str, ...]:
    """Return the sentences that go under a Profile's table, most important first."""
    return (
        *_waiting(profile),
        *_keeping_up(profile),
        *_talking(profile),
        *_drafts(profile),
        *_speech(profile),
        *_levels(profile),
        *_silence(profile),
        *_spread(profile),
        *_trust(profile),
    )


def _waiting(profile: Profile) -> Iterator[str]:
    work, whole = profile.metric("first_token_ms"), profile.metric("first_token_with_decision_ms")
    decision, final = profile.metric("decision_ms"), profile.metric("final_text_ms")
    if not (work and whole and decision and final):
        return
    share = decision.p50 / whole.p50 if whole.p50 else 0.0
    yield (
        f"After the last word a user waits {_ms(whole)} for the first token (median): {_ms(decision)} tell the end of "
        f"speech from a pause ({share:.0%}), {_ms(work)} are work. The final text follows "
        f"{_number(final.p50 - work.p50)} ms later."
    )
    if share > _MOSTLY:
        yield (
            "Most of that wait is the decision: a smaller `min_silence_ms` in the recipe's gate saves more than any "
            "faster model, at the price of cutting where a speaker pauses."
        )
    prefill = profile.metric("prefill_ms", pace=work.pace, level=work.level)
    if prefill and prefill.p50 > _MOSTLY * work.p50:
        helps = "a shorter prompt helps" if profile.bundle.takes_prompt else "a smaller backbone helps"
        yield (
            f"Most of the work before the first token is prefill ({_ms(prefill)}): {helps}, a faster encoder does not."
        )


def _keeping_up(profile: Profile) -> Iterator[str]:
    factor = profile.metric("real_time_factor", level=profile.settings.level)
    if factor is None:
        return
    if factor.p90 >= 1:
        yield (
            f"This device does not keep up: a second of speech takes {factor.p90:.2f} s (p90), so a backlog grows. "
            f"Choose {_smaller(profile)}."
        )
    elif factor.p90 >= _SLOW:
        yield f"A second of speech takes {factor.p90:.2f} s (p90): this keeps up only while nothing else runs."
    else:
        yield f"A second of speech takes {factor.p50:.3f} s: the device is idle {1 - factor.p50:.0%} of the time."


def _smaller(profile: Profile) -> str:
    """Return what there is to choose where this is too slow."""
    choices = ["a smaller model"]
    if (gain := _gain(profile)) and gain[2] >= _LEVEL_GAIN and profile.settings.level != gain[0].level:
        choices.insert(0, "a cheaper level")
    if set(profile.bundle.precision.values()) != {"int4"}:
        choices.insert(0, "a smaller precision")
    return " or ".join([", ".join(choices[:-1]), choices[-1]] if choices[1:] else choices)


def _talking(profile: Profile) -> Iterator[str]:
    share = profile.metric("work_while_talking")
    if share and share.p90 < _LITTLE:
        yield (
            f"The encoder waits for the end of speech: it hears pieces of {profile.bundle.chunk_ms / 1000:g} s, and "
            "none was whole while the user talked."
        )
    elif share:
        yield (
            f"{share.p50:.0%} of the encoder's work was done before the last speech sample (median); the rest is the "
            "tail."
        )


def _drafts(profile: Profile) -> Iterator[str]:
    first, final, plain = (profile.metric(f"{name}_ms") for name in ("first_draft", "drafted_final_text", "final_text"))
    cost, factor = (
        profile.metric("drafted_real_time_factor"),
        profile.metric("real_time_factor", level=profile.settings.level),
    )
    if first and final and plain and cost and factor:
        yield (
            f"With drafts the first words come {_ms(first)} after the utterance begins, pre-roll included, and the "
            f"final text {_ms(final)} after the decision instead of {_ms(plain)}; a second of speech then takes "
            f"{cost.p50:.3f} s instead of {factor.p50:.3f} s."
        )


def _speech(profile: Profile) -> Iterator[str]:
    first, cost = profile.metric("first_audio_ms"), profile.metric("speech_real_time_factor")
    if not (first and cost):
        return
    yield (
        f"The answer is heard {_ms(first)} after the decision (median), what the loudspeaker adds not counted; a "
        f"second of it takes {cost.p50:.2f} s."
    )
    if cost.p90 >= 1:
        yield (
            f"The voice stops and waits: a second of speech takes up to {cost.p90:.2f} s (p90). Choose a smaller "
            "precision of group `decoder`, or a smaller model."
        )


def _gain(profile: Profile) -> tuple[Metric, Metric, float] | None:
    """Return the cost of a token at the level that the Policy falls to last and at the fullest, and their ratio."""
    decode = [m for m in profile.metrics if m.name == "decode_ms" and m.pace == "back to back"]
    return (decode[0], decode[-1], decode[-1].p50 / decode[0].p50) if len(decode) > 1 else None  # in the bundle's order


def _levels(profile: Profile) -> Iterator[str]:
    if (found := _gain(profile)) is None:
        return
    lowest, fullest, gain = found
    told = f"Level `{fullest.level}` takes {_ms(fullest)} per token, `{lowest.level}` {_ms(lowest)}"
    if gain >= _LEVEL_GAIN:
        yield f"{told}: {gain:.1f} x less where the Policy has to catch up."
    elif gain > 1 / _LEVEL_GAIN:
        yield f"{told}: the difference is within the noise, so falling to it saves nothing here."
    else:
        yield (
            f"{told}: the level that the Policy falls to is slower here. Measure again; if it stays so, leave it out "
            "of the recipe's levels."
        )


def _silence(profile: Profile) -> Iterator[str]:
    cost, factor = profile.metric("silence_cost"), profile.metric("real_time_factor", level=profile.settings.level)
    if cost and factor and factor.p50:
        share = f"Silence costs {cost.p50 / factor.p50:.0%} of what speech costs ({cost.p50:.3f} s per second)"
        off = profile.bundle.gate == "off"
        yield f"{share}: the gate is off, so it is heard as speech is." if off else f"{share}: the gate's own work."


def _spread(profile: Profile) -> Iterator[str]:
    alike = (m for m in profile.metrics if m.name in _ALIKE and m.n >= _ENOUGH and m.p50 > 0)
    if wide := [m for m in alike if m.p99 > _WIDE * m.p50]:
        worst = max(wide, key=lambda m: m.p99 / m.p50)
        others = f", and {len(wide) - 1} more of equal work spread{'s' * (len(wide) == 2)} as far" if wide[1:] else ""
        yield (
            f"`{worst.name}` has a p99 {worst.p99 / worst.p50:.1f} x its median{others}: something else used the "
            "cores, or their clock changed. Measure again on an idle device before comparing."
        )


def _trust(profile: Profile) -> Iterator[str]:
    if profile.device.power_mode == "unknown":
        yield "The power mode is unknown: two runs on this device may have had different clocks."
    if "virtual" in profile.device.environment:
        yield (
            "The cores are virtual and may be shared with others: compare medians of interleaved runs, not single "
            "figures."
        )
    if profile.simulated:
        yield "These figures are simulated: nothing here was measured on the named device."


def _ms(metric: Metric) -> str:
    return f"{_number(metric.p50)} ms"


def _number(value: float) -> str:
    return number(round(value)) if abs(value) >= 10 else number(round(value, 1 if abs(value) >= 1 else 3))
