"""Say in plain language what a Profile's figures mean, and what to change. Rules only; nothing is measured here."""

from collections.abc import Iterator

from edgekit.profiler.profiles import Metric, Profile

_SLOW = 0.7  # of real time: beyond it one busy neighbour makes a backlog
_MOSTLY = 0.6
_WIDE = 3.0
_ENOUGH = 30
_LEVEL_GAIN = 1.15  # below it a difference is a tie on shared cores


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
    if (prefill := profile.metric("prefill_ms", pace=work.pace)) and prefill.p50 > _MOSTLY * work.p50:
        yield (
            f"Most of the work before the first token is prefill ({_ms(prefill)}): a shorter prompt helps, a faster "
            "encoder does not."
        )


def _keeping_up(profile: Profile) -> Iterator[str]:
    factor = profile.metric("real_time_factor", level=profile.settings.level)
    if factor is None:
        return
    if factor.p90 >= 1:
        yield (
            f"This device does not keep up: a second of speech takes {factor.p90:.2f} s (p90), so a backlog grows. "
            "Choose a smaller precision, a cheaper level or a smaller model."
        )
    elif factor.p90 >= _SLOW:
        yield f"A second of speech takes {factor.p90:.2f} s (p90): this keeps up only while nothing else runs."
    else:
        yield f"A second of speech takes {factor.p50:.3f} s: the device is idle {1 - factor.p50:.0%} of the time."


def _talking(profile: Profile) -> Iterator[str]:
    share = profile.metric("work_while_talking")
    if share:
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


def _levels(profile: Profile) -> Iterator[str]:
    decode = [m for m in profile.metrics if m.name == "decode_ms" and m.pace == "back to back"]
    if len(decode) < 2:
        return
    cheap, dear = min(decode, key=lambda m: m.p50), max(decode, key=lambda m: m.p50)
    gain = dear.p50 / cheap.p50
    if gain < _LEVEL_GAIN:
        yield "Compute levels cost about the same per token here: the differences are within the noise."
    else:
        yield (
            f"Level `{dear.level}` takes {_ms(dear)} per token, `{cheap.level}` {_ms(cheap)}: {gain:.1f} x less where "
            "the Policy has to catch up."
        )


def _silence(profile: Profile) -> Iterator[str]:
    cost, factor = profile.metric("silence_cost"), profile.metric("real_time_factor", level=profile.settings.level)
    if cost and factor and factor.p50:
        yield (
            f"Silence costs {cost.p50 / factor.p50:.0%} of what speech costs ({cost.p50:.3f} s per second): the gate's "
            "own work."
        )


def _spread(profile: Profile) -> Iterator[str]:
    wide = [m for m in profile.metrics if m.n >= _ENOUGH and m.p50 > 0 and m.p99 > _WIDE * m.p50]
    if wide:
        worst = max(wide, key=lambda m: m.p99 / m.p50)
        yield (
            f"`{worst.name}` has a p99 {worst.p99 / worst.p50:.1f} x its median, and "
            f"{len(wide)} figure{'s spread' if len(wide) > 1 else ' spreads'} more "
            f"than {_WIDE:.0f} x: something else used the cores, or their clock changed. Measure again on an idle "
            "device before comparing."
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
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"
