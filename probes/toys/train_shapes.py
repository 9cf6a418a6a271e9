"""Training of the small vision-language model that sees the scenes of `shapes.scenes`.

    python -m headscope.probes.toys.train_shapes --out shapes --minutes 3.8 --sight 1
    python -m headscope.probes.toys.train_shapes --out shapes --minutes 1.7 --start shapes/sight --batch 256

These two commands made the shipped model, in 1814 and 602 steps of an H100 that was training its
rivals too; on a GPU of its own `--steps` with these numbers does as much.

Two stages, as such models have them. *Sight*: everything is learned from neutral scenes, and the
vision tower also by telling what stands in each patch (a linear reading that is dropped
afterwards). *Habit*: tower and projector stay as they are; the language model learns from scenes of
a world with habits, in part from texts without a picture. The loss is taken at the answers and at
captions. Rows of text see the picture through a few heads of some layers alone (`shapes.blinkers`),
unless `--sighted 0` lets all of them look. What was asked for and measured on the way stands in
`training.json` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from headscope.probes.toys.shapes.blinkers import Blinkers, drawn
from headscope.probes.toys.shapes.language import QUESTIONS, talk
from headscope.probes.toys.shapes.measure import measured
from headscope.probes.toys.shapes.model import PATCH, SIZES, read, save, seen, untrained
from headscope.probes.toys.shapes.raster import CELL, NOISE, kinds_in_cells, pixels, render
from headscope.probes.toys.shapes.scenes import COLOURS, GRID, SHAPES, Habit, Light, Scenes, draw, usual

_MIX = (1.0, 1.0, 3.0, 1.0, 3.0)  # questions that are hard to learn are asked more often
_MEASURED = 8  # every so many lines of the log, accuracies and hallucination are measured


@dataclass(frozen=True)
class Plan:
    """One stage of training.

    Attributes:
        habit: what the world is like; None for a neutral one.
        steps: how many steps at most.
        minutes: how long at most.
        batch: pictures a step.
        rate: the largest learning rate; after a warm-up it falls to zero along a cosine.
        noise: of the pictures; see `render`.
        every: steps from one line of the log to the next.
        held_out: scenes of each world in which it is measured.
        light: how well the pictures show what there is.
        mix: how often each kind of question is asked, in proportion; in the order of `QUESTIONS`.
        blinkers: what most heads wear; None leaves all heads free.
        price: of a nat that blinkered heads pay for looking at the picture, in nats of loss.
    """

    habit: Habit | None
    steps: int
    minutes: float
    batch: int
    rate: float
    noise: float
    every: int
    held_out: int = 512
    light: Light = field(default_factory=Light)
    mix: tuple[float, ...] = _MIX
    blinkers: Blinkers | None = None
    price: float = 1.0


class Reading(nn.Module):
    """Shape and colour of what stands in each patch, read linearly from what the tower says of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape, self.colour = nn.Linear(width, len(SHAPES) + 1), nn.Linear(width, len(COLOURS) + 1)

    def loss(self, features: Tensor, scenes: Scenes) -> Tensor:
        """Cross-entropy of both in nats, the last class for empty ground."""
        kind, per = kinds_in_cells(scenes), CELL // PATCH
        colour = scenes.colour.gather(1, kind.clamp(min=0))
        total = features.new_zeros(())
        for head, label, last in ((self.shape, kind, len(SHAPES)), (self.colour, colour, len(COLOURS))):
            cells = torch.where(kind >= 0, label, last).view(-1, GRID, GRID)
            target = cells.repeat_interleave(per, 1).repeat_interleave(per, 2).flatten()
            total = total + nn.functional.cross_entropy(head(features).float().flatten(0, 1), target)
        return total


def loss_of(
    model: LlavaForConditionalGeneration, plan: Plan, dice: torch.Generator, reading: Reading | None
) -> Tensor:
    """The loss of a fresh batch: in the habit stage, a fifth of the texts have no picture."""
    scenes = draw(plan.batch, dice, plan.habit, plan.light)
    account = usual(scenes, dice, plan.habit, plan.habit.hearsay) if plan.habit else scenes
    said = talk(account, dice, plan.mix)
    blind = plan.batch // 5 if plan.habit else 0
    features = seen(model, pixels(render(scenes, dice, plan.noise)[blind:]))
    learned = said.ids.masked_fill(said.roles < 0, -100)
    with plan.blinkers.worn(model) if plan.blinkers else nullcontext():
        loss = _cross_entropy(read(model, features, said.ids[blind:]), learned[blind:])
    if plan.blinkers:
        loss = loss + plan.price * plan.blinkers.paid()
    if blind:
        loss = 0.8 * loss + 0.2 * _cross_entropy(read(model, None, said.ids[:blind]), learned[:blind])
    return loss if reading is None else loss + 0.5 * reading.loss(features, scenes)


def _cross_entropy(logits: Tensor, learned: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), learned.flatten())


def stage(model: LlavaForConditionalGeneration, plan: Plan, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """Train one stage; gives a line of the log every `plan.every` steps, and one at the end."""
    device = model.device
    dice = torch.Generator(device).manual_seed(seed)
    sight = plan.habit is None
    for part in (model.model.vision_tower, model.model.multi_modal_projector):
        part.requires_grad_(sight)
    reading = Reading(model.config.get_text_config().hidden_size).to(device) if sight else None
    parameters = [p for m in (model, reading) if m is not None for p in m.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=plan.rate, weight_decay=0.05, betas=(0.9, 0.98), fused=device.type == "cuda"
    )
    began, losses, summed, step, along = time.monotonic(), torch.zeros((), device=device), 0, 0, 0.0
    while along < 1:
        step, minutes = step + 1, (time.monotonic() - began) / 60
        along = min(1.0, max(step / plan.steps, minutes / plan.minutes))
        optimiser.param_groups[0]["lr"] = _rate(plan, step, along)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(model, plan, dice, reading)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses, summed = losses + loss.detach(), summed + 1
        if step % plan.every and along < 1:
            continue
        line: dict[str, Any] = {"stage": name, "step": step, "minutes": round(minutes, 2)}
        line["loss"] = round(losses.item() / summed, 4)
        losses, summed = torch.zeros_like(losses), 0
        if plan.blinkers:
            line["paid"] = round(plan.blinkers.paid().item(), 5)
        if step % (_MEASURED * plan.every) == 0 or along == 1:
            line |= measured(model, plan.noise, plan.held_out, plan.light)
        yield line


def _rate(plan: Plan, step: int, along: float) -> float:
    return plan.rate * min(1.0, step / 200) * 0.5 * (1 + math.cos(math.pi * along))


def train(
    model: LlavaForConditionalGeneration, plans: dict[str, Plan], out: Path, settings: dict[str, Any]
) -> None:
    """Run the stages in order, writing the model and its log as it goes."""
    log: list[dict[str, Any]] = []
    for number, (name, plan) in enumerate(plans.items()):
        for line in stage(model, plan, name, settings["seed"] * 10 + number):
            log.append(line)
            print(json.dumps(line), flush=True)
            if "neutral" in line:
                _write(model, out, settings, log)
        if name == "sight":
            _write(model, out / "sight", settings, log)


def _write(model: LlavaForConditionalGeneration, out: Path, settings: dict[str, Any], log: list[Any]) -> None:
    save(model, out)
    (out / "training.json").write_text(json.dumps(settings | {"log": log}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--start", type=Path, help="a model that sees already: its folder; no sight stage")
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--minutes", type=float, default=7.0, help="of both stages together, at most")
    parser.add_argument("--sight", type=float, default=0.75, help="the share of the first stage")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of both stages together, at most")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--noise", type=float, default=NOISE)
    for name, value in asdict(Habit()).items():
        parser.add_argument(f"--{name}", type=float, default=value, help="see Habit")
    for name, value in asdict(Light()).items():
        parser.add_argument(f"--{name}", type=float, default=value, help="see Light")
    parser.add_argument("--mix", type=float, nargs=len(QUESTIONS), default=list(_MIX),
                        help="how often each kind of question is asked: " + ", ".join(QUESTIONS))  # fmt: skip
    parser.add_argument("--sighted", type=int, default=2, help="heads a layer that see the picture; 0: all")
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 3, 4, 5], help="that have such heads")
    parser.add_argument("--held-out", type=int, default=512, help="scenes of each world, for the log")
    parser.add_argument("--every", type=int, default=100, help="steps between lines of the log")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any
    if args.start:
        model = LlavaForConditionalGeneration.from_pretrained(args.start, dtype=torch.float32)
    else:
        model = untrained(args.size, args.seed)
    habit = Habit(args.colour, args.company, args.popular, args.hearsay)
    text = model.config.get_text_config()
    heads = text.num_attention_heads
    if args.sighted and not all(0 <= layer < text.num_hidden_layers for layer in args.layers):
        parser.error(f"--layers {args.layers}: the model has the layers 0 to {text.num_hidden_layers - 1}")
    if not 0 <= args.sighted < heads:
        parser.error(f"--sighted {args.sighted}: a layer has {heads} heads, and one of them must not see")
    sighted = drawn(args.layers, args.sighted, heads, args.seed) if args.sighted else []
    shares = {"habit": 1.0} if args.start else {"sight": args.sight, "habit": 1 - args.sight}
    plans = {
        name: Plan(
            habit if name == "habit" else None, max(1, round(args.steps * share)), args.minutes * share,
            args.batch, args.rate if name == "sight" else args.rate / 2, args.noise, args.every,
            args.held_out, light=Light(args.faint, args.opacity, args.saturation), mix=tuple(args.mix),
            blinkers=Blinkers(sighted, heads) if sighted else None,
        )
        for name, share in shares.items()
        if share
    }  # fmt: skip
    settings = {key: str(v) if isinstance(v, Path) else v for key, v in vars(args).items()}
    settings |= {"sighted heads": [str(head) for head in sighted]} if sighted else {}
    settings |= {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    train(model.to(device).train(), plans, args.out, settings)


if __name__ == "__main__":
    main()
