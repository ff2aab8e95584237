"""A few steps of training in a process of its own, for the comparison of one process with two.

Called as ``train_steps.py STORE OUT KEYS STEPS``, alone or by torchrun; the first process writes
losses, gradients, weights, banks and state per pair into OUT, and every process its bank's checksum.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from okrcell.train.config import TrainConfig
from okrcell.train.distributed import world_of
from okrcell.train.loader import Loader
from okrcell.train.pair_state import gather_pair_states
from okrcell.train.prepare import build_trainer, prepare
from okrcell.train.sampler import Sampler


def main(store: Path, out: Path, keys: dict, steps: int) -> None:
    torch.set_num_threads(1)
    config = TrainConfig(**keys)
    with world_of("cpu") as world:
        prepared = prepare(store, Path(), config)
        trainer = build_trainer(prepared, config, world, out)
        sampler = Sampler(len(prepared.pairs), config.batch_size, config.seed)
        trainer.tower.train()
        losses = []
        for number, batch in Loader(prepared.pairs, config, sampler, world, start=0, stop=steps):
            epoch = number // trainer.steps_per_epoch + 1
            if number % trainer.steps_per_epoch == 0:
                trainer.start_epoch(epoch)
                trainer.objective.start_epoch(epoch)
            report = trainer.take(number, batch)
            losses.append([*report.parts.tolist(), report.loss, report.grad_norm])
        tensors = {f"weight.{k}": v for k, v in trainer.tower.state_dict().items()}
        named = [*trainer.tower.named_parameters(), *trainer.text.named_parameters()]
        tensors |= {f"gradient.{k}": p.grad for k, p in named if p.grad is not None}
        tensors |= {f"text.{k}": v for k, v in trainer.text.trained_state().items()}
        tensors |= {f"pairs.{k}": v for k, v in gather_pair_states(trainer.objective).items()}
        tensors |= {f"objective.{k}": v for k, v in trainer.objective.state_dict().items()}
        if trainer.momentum is not None:
            tensors |= {f"momentum.{k}": v for k, v in trainer.momentum.state_dict().items()}
            checksum = int(trainer.momentum.checksum())
            (out / f"checksum-{world.size}-{world.rank}").write_text(str(checksum))
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        if world.is_main:
            kept = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
            save_file(kept, out / f"steps-{os.environ.get('WORLD_SIZE', '1')}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4]))
