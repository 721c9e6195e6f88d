"""Train the student: distil the teacher's frames and tokens into chunks and experts. Resumes from its last checkpoint.

    python models/edgekit-tiny/train/train.py --minutes 100

Knows losses, the optimiser and checkpoints. Knows nothing of where lessons come from. Writes last.pt (to go on with),
curve.jsonl (one line per evaluation) and, at the end, the averaged weights as a checkpoint folder. One run follows one
cosine of the learning rate over ``--minutes`` of work, pauses not counted. A GPU is used when there is one.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from lessons import Batch, Lessons
from network import Network, Routing, best, build, chunk_mask
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from edgekit.atomic import draft_file

FRAMES, FORCED, ROUTER = 1.0, 0.2, 0.1  # weights of the losses beside the teacher's tokens (1.0)
WARM_UP_STEPS, CLIP, DECAY = 100, 1.0, 0.01
FLOOR = 0.03  # of the highest learning rate, at the end
AVERAGE = 0.998  # of the weights, per step


@dataclass
class Losses:
    """Parts of the loss, means over what they count."""

    tokens: Tensor  # Kullback-Leibler divergence from the teacher, per token
    forced: Tensor  # cross-entropy of the text
    frames: Tensor  # squared error per number of the encoder's frames
    router: Tensor  # cross-entropy of the router against what experts do
    right: Tensor  # share of tokens where the likeliest is the text's

    def total(self) -> Tensor:
        """Return what is minimised."""
        return self.tokens + FORCED * self.forced + FRAMES * self.frames + ROUTER * self.router


def losses(network: Network, batch: Batch, device: str) -> Losses:
    """Return the losses of one batch."""
    positions = torch.arange(batch.mel.shape[2] // 2, device=device)
    with torch.autocast(device, torch.bfloat16):
        sound = network.encoder(batch.mel, chunk_mask(positions, batch.positions, batch.chunk))
        heard = (positions[None] < batch.positions[:, None])[:, None, None]
        hidden, routings = network.decoder(batch.tokens, sound, heard, best(batch.experts))
        asked = batch.labels != -100
        logits = network.head(hidden[asked])
    logits = logits.float()
    labels, taught = batch.labels[asked], batch.taught[asked]
    total = logits.logsumexp(-1, keepdim=True)
    forced = functional.cross_entropy(logits, labels)
    # the teacher's likeliest tokens one by one, all others as one
    ids, shares = batch.likely[asked][taught], batch.log_shares[asked][taught]
    mine = logits[taught].gather(1, ids) - total[taught]
    rest, my_rest = remainder(shares), remainder(mine)
    divergence = (shares.exp() * (shares - mine)).sum(1) + rest.exp() * (rest - my_rest)
    error = (sound.float() - batch.frames)[batch.voiced].square().mean()
    return Losses(
        divergence.mean() if len(divergence) else forced * 0,
        forced,
        error if batch.voiced.any() else forced * 0,
        torch.stack([router_loss(routing, asked) for routing in routings]).mean(),
        (logits.argmax(1) == labels).float().mean(),
    )


def remainder(log_shares: Tensor) -> Tensor:
    """Return the logarithm of what shares (n, k) leave to all others, (n,)."""
    return (1 - log_shares.exp().sum(1)).clamp_min(1e-4).log()


def router_loss(routing: Routing, asked: Tensor) -> Tensor:
    """Return the cross-entropy of the router against the softmax of each expert's standardised mass."""
    mass = routing.mass[asked]
    wanted = ((mass - mass.mean(0)) / mass.std(0).clamp_min(1e-6)).softmax(-1) if len(mass) > 1 else mass.softmax(-1)
    return -(wanted * routing.scores[asked].log_softmax(-1)).sum(-1).mean()


@torch.inference_mode()
def evaluate(network: Network, lessons: Lessons, device: str) -> dict[str, float]:
    """Return the mean losses over spoken clips that are held out, whole and undisturbed."""
    network.eval()
    sums: dict[str, float] = {}
    batches = 0
    for batch in lessons:
        found = losses(network, batch.to(device), device)
        for name, value in found.__dict__.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        batches += 1
    network.train()
    return {name: round(value / batches, 5) for name, value in sums.items()}


class Run:
    """Network, optimiser, averaged weights and how far they are; all of it in one file, so that a run goes on."""

    def __init__(self, start: Path, folder: Path, rate: float, device: str) -> None:
        self.start, self.folder, self.rate, self.device = start, folder, rate, device
        self.network, self.judged = self._build(), self._build()
        for frozen in (
            self.network.encoder.embed_positions,
            self.network.decoder.embed_tokens,
            self.network.decoder.embed_positions,
        ):
            frozen.requires_grad_(False)
        learning = [tensor for tensor in self.network.parameters() if tensor.requires_grad]
        self.optimiser = torch.optim.AdamW(learning, rate, weight_decay=DECAY, fused=True)
        self.average = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.step, self.clips, self.worked_s, self.heard_s = 0, 0, 0.0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self.last = folder / "last.pt"
        if self.last.exists():
            state = torch.load(self.last, map_location=device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average, self.step, self.clips = state["average"], state["step"], state["clips"]
            self.worked_s, self.heard_s = state["worked"], state["seconds"]

    def _build(self) -> Network:
        config = json.loads((self.start / "config.json").read_text(encoding="utf-8"))
        return build(config, load_file(self.start / "model.safetensors")).to(self.device)

    def learn(self, batch: Batch, progress: float) -> dict[str, float]:
        """Take one step, ``progress`` of the way from 0 to 1, and return the losses."""
        cosine = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1.0, (self.step + 1) / WARM_UP_STEPS) * cosine
        found = losses(self.network, batch, self.device)
        self.optimiser.zero_grad(set_to_none=True)
        found.total().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimiser.step()
        self.step, self.clips = self.step + 1, self.clips + len(batch.mel)
        self.heard_s += float(batch.positions.sum()) * 0.02
        keep = min(AVERAGE, self.step / (self.step + 20))
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                self.average[name].lerp_(tensor, 1 - keep)
        return {name: float(value.detach()) for name, value in found.__dict__.items()}

    def judge(self, held_out: Lessons, recent: list[dict[str, float]]) -> dict[str, object]:
        """Return and keep one line of the curve: the mean of recent losses, and the averaged weights' on held_out."""
        self.judged.load_state_dict(self.average)
        means = (
            {name: round(statistics.fmean(part[name] for part in recent), 4) for name in recent[0]} if recent else {}
        )
        line = {"step": self.step, "clips": self.clips, "hours": round(self.heard_s / 3600, 2)}
        line |= {"minutes": round(self.worked_s / 60, 1), "training": means}
        line |= {"held_out": evaluate(self.judged, held_out, self.device)}
        with (self.folder / "curve.jsonl").open("a", encoding="utf-8") as curve:
            curve.write(json.dumps(line) + "\n")
        return line

    def save(self) -> None:
        """Write everything so that a stop at any moment leaves the former or the new state, and the checkpoint."""
        state = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}
        state |= {"average": self.average, "step": self.step, "clips": self.clips}
        with draft_file(self.last) as draft:
            torch.save(state | {"worked": self.worked_s, "seconds": self.heard_s}, draft.path)
            draft.publish()
        publish(self.average, self.start, self.folder / "checkpoint")


def publish(average: dict[str, Tensor], start: Path, output: Path) -> None:
    """Write the weights as a checkpoint beside the start's tokenizer and settings, in float16."""
    output.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor.half().contiguous() for name, tensor in sorted(average.items())}
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    (output / "model.safetensors").chmod(0o644)
    for name in ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"):
        shutil.copyfile(start / name, output / name)


def main() -> None:
    """Train until the minutes are used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=Path, default=Path("data/train/start"))
    parser.add_argument("--speech", type=Path, default=Path("data/train/speech"))
    parser.add_argument("--noises", type=Path, default=Path("data/sounds/train"))
    parser.add_argument("--run", type=Path, default=Path("data/train/run"))
    parser.add_argument("--minutes", type=float, default=100.0)
    parser.add_argument("--rate", type=float, default=1e-4, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=1, help="processes that make lessons")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-minutes", type=float, default=9.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run(arguments.start, arguments.run, arguments.rate, device)
    held_out = Lessons([arguments.speech / "held-out-0000.npz"], arguments.noises, arguments.start, 0, plain=True)
    shards = [arguments.speech / f"{kind}-{number:04}.npz" for kind in ("shard", "kokoro") for number in range(1000)]
    lessons = Lessons(shards, arguments.noises, arguments.start, arguments.seed + run.step)
    loader = iter(DataLoader(lessons, batch_size=None, num_workers=arguments.workers, prefetch_factor=8))
    recent: list[dict[str, float]] = []
    saved = mark = time.monotonic()
    while run.worked_s < arguments.minutes * 60:
        recent.append(run.learn(next(loader).to(device), run.worked_s / (arguments.minutes * 60)))
        run.worked_s, mark = run.worked_s + time.monotonic() - mark, time.monotonic()
        if run.worked_s >= arguments.minutes * 60 or mark - saved > arguments.save_minutes * 60:
            print(json.dumps(run.judge(held_out, recent)), flush=True)
            run.save()
            recent = []
            saved = mark = time.monotonic()


if __name__ == "__main__":
    main()
