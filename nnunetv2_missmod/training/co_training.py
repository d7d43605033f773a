"""A teacher that sees all that a case has, and its student, the network, side by side from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

from nnunetv2_missmod.training.learning import Learner, Update
from nnunetv2_missmod.training.trainer import Batch, MissingModalityTrainer

Output = TypeVar("Output", bound=tuple[Any, ...])  # of a network in training, a NamedTuple whose first field is logits


class CoTrainer(MissingModalityTrainer):
    """Base of trainers with a teacher, a second network of the student's kind that serves training alone.

    A method sets both settings and fills ``student_terms``.
    """

    teacher_weight: float  # of the teacher's segmentation loss
    detach_teacher: bool  # whether the teacher learns from its labels alone

    teacher: Learner

    def initialize(self) -> None:
        """Set up the student as nnU-Net does, and the teacher beside it."""
        super().initialize()
        teacher = self.beside(self.build_teacher(), self.compiles())
        self.teacher = Learner(teacher, self.build_optimizer(teacher.parameters()))

    def build_teacher(self) -> nn.Module:
        """Build a second network of the student's kind."""
        return self.build_network_architecture(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        )

    def build_adversary(self, discriminator: nn.Module) -> Learner:
        """Set up a discriminator beside the networks; its weights do not decay."""
        network = self.beside(discriminator, False)
        undecayed = {"params": list(network.parameters()), "weight_decay": 0.0}
        return Learner(network, self.build_optimizer([undecayed]))

    def companions(self) -> dict[str, Learner]:
        """What learns beside the student, by name."""
        return {"teacher": self.teacher}

    def updates(self, batch: Batch) -> Iterator[Update]:
        """The teacher that learns from its labels alone first, before the student needs memory.

        A teacher that learns from the student's terms as well takes its step together with the student.
        """
        full = self.teacher.network(batch.images, batch.available)
        teacher_term = {"teacher": self.teacher_weight * self.loss(full.logits, batch.target)}
        if not self.detach_teacher:
            yield Update(self.learners(), self.student_terms(batch, full) | teacher_term)
            return
        yield Update([self.teacher], teacher_term)
        self.teacher.optimizer.zero_grad(set_to_none=True)
        others = [learner for learner in self.learners() if learner is not self.teacher]
        yield Update(others, self.student_terms(batch, detached(full)))

    def student_terms(self, batch: Batch, full: Any) -> dict[str, Tensor]:
        """Compute all terms but the teacher's own, those of discriminators included.

        Args:
            batch: of which the student sees a part.
            full: what the teacher made of all that is available.
        """
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """Give those of classes or regions, (B, K, *spatial)."""
        return logits.sigmoid() if self.label_manager.has_regions else logits.softmax(1)


def detached(out: Output) -> Output:
    """Take an output out of the graph."""
    return type(out)(*(apply(Tensor.detach, field) for field in out))


def in_float(out: Output) -> Output:
    """Convert an output to float32."""
    return type(out)(*(apply(Tensor.float, field) for field in out))


def apply(function: Callable[[Tensor], Tensor], field: Tensor | list[Tensor]) -> Any:
    """Apply a function to a tensor, or to each of a list."""
    return [function(tensor) for tensor in field] if isinstance(field, list) else function(field)
