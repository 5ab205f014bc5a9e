"""TRL's DPOTrainer with Genmesh's batches, evaluations and end of training. Importing it takes TRL and torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import datasets
import torch
from huggingface_hub import constants
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig, DPOTrainer

from genmesh_models.finetune import Training, share_of_rate


class PairTrainer(DPOTrainer):
    """``steps`` and ``checks``: indices of the pairs of each step, and of each batch of an evaluation."""

    def __init__(
        self, work: Training, steps: list[list[int]], checks: list[list[int]],
        show: Callable[[int, int, float], None], **options: Any,
    ) -> None:  # fmt: skip
        self.work, self.steps, self.checks, self.show = work, steps, checks, show
        self.loss = math.inf  # of the last step
        self.accuracy = 0.0  # on the held-out pairs, of the adapter that is kept
        self.seen: list[
            tuple[int, float, int]
        ] = []  # of an evaluation's batches: pairs, mean loss, and how many are right
        super().__init__(**options)

    def _prepare_dataset(self, dataset: datasets.Dataset, *args: Any) -> datasets.Dataset:
        return dataset  # DPOTrainer would lay prompts out on its own; they are token ids already

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, batch_sampler=self.steps, collate_fn=self.data_collator)

    def get_eval_dataloader(self, eval_dataset: datasets.Dataset | None = None) -> DataLoader:
        return DataLoader(self.eval_dataset, batch_sampler=self.checks, collate_fn=self.data_collator)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        found = super().prediction_step(model, inputs, *args, **options)
        pairs = len(inputs["input_ids"]) // 2
        self.seen.append((pairs, float(found[0]), round(pairs * self._metrics["eval"]["rewards/accuracies"][-1])))
        return found

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        self.seen.clear()
        found: dict[str, float] = super().evaluate(*args, **options)
        # The library's means count each batch alike, however many pairs it has.
        pairs = sum(count for count, _, _ in self.seen)
        loss = sum(count * mean for count, mean, _ in self.seen) / pairs
        accuracy = sum(right for _, _, right in self.seen) / pairs
        self.work.say(f"{self.progress()}, held out {loss:.4f}, accuracy {accuracy:.3f}")
        before = self.work.lowest
        if self.work.ends(loss):
            self.control.should_training_stop = True
        if self.work.lowest < before:
            self.accuracy = accuracy
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            self.loss = logs["loss"]
            self.show(self.state.global_step, self.state.max_steps, self.loss)
        super().log(logs, start_time)

    def progress(self) -> str:
        return f"step {self.state.global_step} of {self.state.max_steps} loss {self.loss:.4f}"


class Evaluations(TrainerCallback):
    """Evaluates (or says how far it is) each ``every`` steps and after the last one, which Trainer's own strategy leaves out."""

    def __init__(self, trainer: PairTrainer, every: int) -> None:
        self.trainer, self.every = trainer, every

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **options: Any
    ) -> None:
        control.should_evaluate = bool(self.trainer.checks) and self.due(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **options: Any) -> None:
        if not self.trainer.checks and "loss" in options["logs"] and self.due(state):
            self.trainer.work.say(self.trainer.progress())

    def due(self, state: TrainerState) -> bool:
        return not state.global_step % self.every or state.global_step == state.max_steps


def trainer_of(
    work: Training, learned: list[dict[str, list[int]]], kept: list[dict[str, list[int]]], steps: list[list[int]],
    checks: list[list[int]], *, every: int, beta: float, seed: int, show: Callable[[int, int, float], None],
) -> PairTrainer:  # fmt: skip
    """What trains ``work``'s adapter on pairs of token ids: ``steps`` of ``learned``, evaluated on ``kept`` each ``every`` steps."""
    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL reports each training to its makers otherwise
    settings = DPOConfig(
        output_dir=str(work.staged), use_cpu=work.where.type == "cpu", bf16=work.half, seed=seed, beta=beta,
        # All epochs are in ``steps``.
        num_train_epochs=1, max_length=None, max_grad_norm=1.0, gradient_checkpointing=False, logging_steps=1,
        logging_nan_inf_filter=False, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(work.trained, lr=work.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, len(steps)))
    trainer = PairTrainer(
        work, steps, checks, show, model=work.model, args=settings, processing_class=work.tokenizer,
        train_dataset=datasets.Dataset.from_list(learned),
        eval_dataset=datasets.Dataset.from_list(kept) if kept else None, optimizers=(optimizer, schedule),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Evaluations(trainer, every))
    return trainer
